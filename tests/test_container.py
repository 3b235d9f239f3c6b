"""The Dockerfile, as far as that is checked without docker."""

import json
import re
import shlex
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def instructions(text):
    """Pairs of an instruction and its arguments; comments are left out, continued lines joined."""
    text = re.sub(r"\\\n\s*", "", "\n".join(x for x in text.splitlines() if not x.lstrip().startswith("#")))
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


STEPS = instructions((ROOT / "Dockerfile").read_text())


def of(name):
    return [arguments for found, arguments in STEPS if found == name]


def copied():
    for arguments in of("COPY"):
        *sources, _ = [word for word in arguments.split() if not word.startswith("--")]
        yield from sources


def test_the_base_is_pinned_and_fits_the_package():
    defaults = dict(a.split("=", 1) for a in of("ARG"))
    assert of("FROM") == ["${BASE}"]
    image, _, tag = defaults["BASE"].partition(":")
    version = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)-[a-z-]+", tag)
    assert image == "python"
    assert version, f"{tag}: give a full version"
    assert (3, 11, 4) <= tuple(map(int, version.groups())) < (3, 13)  # as pyproject.toml and CI have it
    assert "latest" not in (ROOT / "Dockerfile").read_text()


def test_what_is_copied_exists_and_is_not_ignored():
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for source in copied():
        assert list(ROOT.glob(source)), f"COPY {source}: no such file"
        assert f"!{source}" in ignored, f"{source} is not sent to docker"


def test_what_pip_needs_is_copied_before():
    packaged = (ROOT / "pyproject.toml").read_text().split("force-include]")[1].split("\n\n")[0]
    needed = [*re.findall(r'^"([^"]+)" =', packaged, re.MULTILINE), "mlssl", "README.md", "LICENSE"]
    assert len(needed) > 6
    there = tuple(copied())
    for path in needed:
        assert any(path == source or path.startswith(f"{source}/") for source in there), path
    assert [s[0] for s in STEPS].index("COPY") < max(i for i, s in enumerate(STEPS) if "pip install" in s[1])


def test_it_installs_as_the_readme_says():
    (line,) = [x for x in (ROOT / "README.md").read_text().splitlines() if x.startswith("pip install -c")]
    wanted = shlex.split(line.split("#")[0])
    run = next(r for r in of("RUN") if "pip install -c" in r)
    command = shlex.split(run.split("&&")[-1].replace("$CONSTRAINTS", "constraints.txt"))
    assert command == wanted
    assert dict(a.split("=", 1) for a in of("ARG"))["CONSTRAINTS"] == "constraints.txt"


def test_no_job_runs_as_root_and_no_index_is_named():
    names = [name for name, _ in STEPS]
    assert of("USER") == ["mlssl"]
    assert "--create-home --uid 1000 mlssl" in " ".join(of("RUN"))
    assert names.index("USER") < min(i for i, s in enumerate(STEPS) if "pip" in s[1] and s[0] == "RUN")
    assert all("--chown=mlssl" in arguments for arguments in of("COPY"))
    assert "://" not in (ROOT / "Dockerfile").read_text()


@pytest.mark.parametrize("name", ["ENTRYPOINT", "CMD"])
def test_it_starts_a_command_without_a_shell(name):
    (arguments,) = of(name)
    assert json.loads(arguments) == {"ENTRYPOINT": ["snakemake"], "CMD": ["--cores", "all"]}[name]
