"""Commands about this machine: what the suite needs of it, and completion in a shell."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from mlssl.cli.options import command
from mlssl.errors import ConfigError
from mlssl.project import included

BASH = """_mlssl() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" words
  if [ "$COMP_CWORD" -eq 1 ]; then words="{commands}"; else
    case "${{COMP_WORDS[1]}}" in
{cases}
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word") $(compgen -f -- "$word"))
}}
complete -o filenames -F _mlssl mlssl"""
ZSH = "autoload -U +X bashcompinit && bashcompinit\n"


def add(commands: Any) -> None:
    """Add them to the parser."""
    command(
        commands,
        "doctor",
        doctor,
        "Check this machine: Python, torch, GPU and driver, shared memory, disk, compiler, write access.",
        "mlssl doctor",
    )
    sub = command(
        commands,
        "completion",
        lambda args: print(script(args.shell, commands.choices)),
        "Print what lets a shell complete commands, options and the names of included studies.",
        'eval "$(mlssl completion bash)"                     in ~/.bashrc',
        'eval "$(mlssl completion zsh)"                      in ~/.zshrc',
    )
    sub.add_argument("shell", choices=("bash", "zsh"), help="which shell")


def doctor(args: argparse.Namespace) -> None:
    from mlssl.runtime.doctor import checks

    found = checks()
    width = max(len(check.what) for check in found)
    for check in found:
        print(f"{check.state:<7} {check.what:<{width}}  {check.text}")
        if check.remedy:
            print(f"{'':<7} {'':<{width}}  → {check.remedy}")
    wrong = [check.what for check in found if check.state == "fails"]
    if wrong:
        raise ConfigError(f"{', '.join(wrong)}: see above for the remedy")


def script(shell: str, commands: Mapping[str, argparse.ArgumentParser]) -> str:
    """The completion of all commands for bash, which zsh reads too."""
    cases = []
    for name, sub in commands.items():
        options = [option for action in sub._actions for option in action.option_strings if option.startswith("--")]
        studies = included() if "--study" in options or name == "run" else []
        cases.append(f'    {name}) words="{" ".join([*options, *studies])}";;')
    return (ZSH if shell == "zsh" else "") + BASH.format(commands=" ".join(commands), cases="\n".join(cases))
