"""Commands about this machine: completion in a shell."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from mlssl.cli.options import command
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
    sub = command(
        commands,
        "completion",
        lambda args: print(script(args.shell, commands.choices)),
        "Print what lets a shell complete commands, options and the names of included studies.",
        'eval "$(mlssl completion bash)"                     in ~/.bashrc',
        'eval "$(mlssl completion zsh)"                      in ~/.zshrc',
    )
    sub.add_argument("shell", choices=("bash", "zsh"), help="which shell")


def script(shell: str, commands: Mapping[str, argparse.ArgumentParser]) -> str:
    """The completion of all commands for bash, which zsh reads too."""
    cases = []
    for name, sub in commands.items():
        options = [option for action in sub._actions for option in action.option_strings if option.startswith("--")]
        studies = included() if "--study" in options or name == "run" else []
        cases.append(f'    {name}) words="{" ".join([*options, *studies])}";;')
    return (ZSH if shell == "zsh" else "") + BASH.format(commands=" ".join(commands), cases="\n".join(cases))
