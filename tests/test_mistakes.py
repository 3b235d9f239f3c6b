"""Typical mistakes on the command line and in studies: each is answered by one sentence with the remedy."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from support.snakemake import snakemake, tiny, write

from mlssl.cli import GROUPS, main, parser, run
from mlssl.errors import ConfigError, did_you_mean
from mlssl.runtime import device
from mlssl.study.load import load

ROOT = Path(__file__).parents[1]


def called(monkeypatch, capsys, *words):
    """Exit code and what is printed of `mlssl <words>`."""
    monkeypatch.setattr(sys, "argv", ["mlssl", *words])
    try:
        code = main()
    except SystemExit as end:
        code = end.code
    return code, "".join(capsys.readouterr())


MISTAKES = {
    "pretrian": "there is no command 'pretrian' (did you mean 'pretrain'?)",
    "xyz": "there is no command 'xyz': run, ",
    "": "give a command; `mlssl --help` lists all",
    "run": "give a study before the options",
    "run --cores 2 demo": "give a study before the options",
    "status": "mlssl status: give a study: `mlssl status demo`",
    "status tinny": "tinny: no such file (did you mean 'tiny'?); give the path of a study, or the name of one",
    "status --studdy tiny": "mlssl status: unknown option --studdy (did you mean '--study'?)",
    "status tiny more": "mlssl status: unexpected arguments: more",
    "estimate tiny --gpus 0": "argument --gpus: 0 is not allowed; give at least 1",
    "estimate tiny --cores many": "argument --cores: 'many' is not allowed; give a whole number",
    "redo --study tiny --stage lienar": "the study has no 'lienar' (did you mean 'linear'?)",
    "redo --study tiny mls-f67d1b8e": "has no run 'mls-f67d1b8e' (did you mean 'mls-f67d1b8e-s0'?)",
    "resolve mls-f67d1b8 --study tiny --out x": "(did you mean 'mls-f67d1b8e-s0'?)",
    "linear --study tiny --run-name mls-f67d1b8e": "has no run 'mls-f67d1b8e' (did you mean 'mls-f67d1b8e-s0'?)",
    "scenes --out x --images -5": "argument --images: -5 is not allowed; give at least 1",
    "scenes --out x --images 2 --val-images 0": "argument --val-images: 0 is not allowed; give at least 1",
    "scenes --out x --images 2 --size 16": "--size: 16 x 16 pixels are too few; give at least 32 x 32",
    "scenes --out x --images 2 --size big": "argument --size: 'big' is not allowed; give a whole number",
    "scenes --out x --images 2 --seed -1": "argument --seed: -1 is not allowed; give at least 0",
    "store --images none --out x": "none: no such folder; give a folder of images",
    "store --images . --out x --max-skipped 5": "argument --max-skipped: '5' is not allowed; give a share",
    "dataset voc2077 --out x": "'voc2077' is not known (did you mean 'voc2007'?)",
    "pretrain --config tiny.yaml --out x": "tiny.yaml: is a study, not the settings of one stage",
    "pretrain --config none.yaml --out x": "none.yaml: no such file; check the path",
    "pretrain --study tiny": "pretrain: --study needs --run-name too",
    "--hepl": "mlssl: unknown option --hepl (did you mean '--help'?)",
    "run tiny.yaml demo -n": "demo: tiny.yaml is given already; give one study",
    "run tiny.yaml -n --config study=demo": "study=demo: tiny.yaml is given already; give one study",
    "run tiny.yaml --coress 2": "unknown option --coress (did you mean '--cores'?); `snakemake --help` lists",
    "run tiny.yaml --image shop": "unknown option --image (did you mean '--images'?)",
    "run tiny.yaml -n --workflow-profile slrm": "slrm: no such folder (did you mean 'slurm'?); give one of ku",
    "status --study tiny demo": "mlssl status: two studies are given, ",
    "status --set pretrain.steps=2 tiny": "give a study: `mlssl status tiny --set KEY=VALUE`, before --set",
    "redo": "mlssl redo: give a study: `mlssl redo demo`",
    "redo mls-f67d1b8e-s0": "mls-f67d1b8e-s0: no such file; give the path of a study",
    "redo tiny --stage linear mls-f67d1b8e": "has no run 'mls-f67d1b8e' (did you mean 'mls-f67d1b8e-s0'?)",
    "page --study tiny demo": "results/tiny: has no metrics.tsv",
    "scenes --out x --images 2 --size 64x": "argument --size: '' is not allowed; give a whole number",
    "contact-sheet --data x --out x.jpg": "'x.jpg' is not allowed; give a file that ends in .png",
    "histograms --study tiny --run-name x --out x.png": "'x.png' is not allowed; give a file that ends in .json",
    "search-benchmark --checkpoint c --images i --out b.json": "search-benchmark: --checkpoint needs --sizes too",
    "embed b.pt images --out f.csv": "mlssl embed: f.csv: give a file that ends in .npz or .parquet",
    "store --images . --out .": "argument --out: '.' is not allowed; give the name of what to write",
    "import --photos . --out ..": "argument --out: '..' is not allowed; give the name of what to write",
    "settings --out .": "argument --out: '.' is not allowed; give the name of what to write",
    "estimate tiny --set name=My-Study": "'My-Study' is not allowed; give lower-case letters, digits and _ or -, a",
    "estimate tiny --set seeds=[0": "--set: 'seeds=[0': not valid YAML: line 1, column 3: expected ',' or ']'",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_a_mistake_on_the_command_line_is_one_sentence(words, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "tiny.yaml", tiny())
    code, text = called(monkeypatch, capsys, *words.split())
    assert code in (1, 2)
    assert MISTAKES[words] in text.splitlines()[-1]
    assert [path.name for path in tmp_path.glob("[!.]*")] == ["tiny.yaml"]


def changed(**sections):
    """The tiny study with keys of its sections added."""
    base = tiny()
    return base | {name: base.get(name, {}) | values for name, values in sections.items()}


K = {"method": "mls", "param": "k"}
IN_STUDIES = [
    (tiny(sedes=[0]), "unknown key 'sedes' (did you mean 'seeds'?); known are name, about"),
    (changed(pretrain={"epoch": 3}), "pretrain: unknown key 'epoch' (did you mean 'epochs'?)"),
    (changed(pretrain={"views": {"corp": 3}}), "pretrain.views: unknown key 'corp' (did you mean 'crop'?)"),
    (changed(pretrain={"backbone": "resnet19"}), "timm knows no model 'resnet19'; did you mean resnet"),
    (changed(pretrain={"lr": "fast"}), "pretrain.lr: 'fast' is not allowed; give a number"),
    (changed(pretrain={"views": 3}), "pretrain.views: 3 is not allowed; give a mapping such as {key: value}"),
    (tiny(seeds=0), "seeds: 0 is not allowed; give a list such as [0, 1]"),
    (changed(transfers={"linera": {}}), "transfers: unknown key 'linera' (did you mean 'linear'?)"),
    (changed(transfers={"knn": {"neighbors": [1]}}), "transfers.knn: unknown key 'neighbors' (did you mean 'nei"),
    (tiny(compare=["moco_v3"]), "compare: method 'moco_v3' is not under methods (did you mean 'moco_v2'?)"),
    (changed(common={"dictionary": 8}), "common.dictionary: no method has this parameter (did you mean 'dicti"),
    (changed(ablations={"k": K | {"values": [2, "two"]}}), "ablations.k.values.params.k: 'two' is not allowed"),
    (changed(ablations={"k": {**K, "param": "kk", "values": [2]}}), "has no such parameter"),
    (tiny(data={"dataset": {"name": "coco2016"}}), "'coco2016' is not known (did you mean 'coco2017'?)"),
    (tiny(data={"photos": {"folder": "nowhere"}}), "nowhere: no such folder"),
    (changed(pretrain={"log_to": ["wandb"]}), "pretrain.log_to: wandb is not installed; run `pip install wandb`"),
]  # fmt: skip


@pytest.mark.parametrize(("values", "sentence"), IN_STUDIES, ids=[text[:40] for _, text in IN_STUDIES])
def test_a_mistake_in_a_study_is_one_sentence(values, sentence, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "wandb" else find(name))
    path = write(tmp_path / "study.yaml", values)
    try:
        said = " ".join(load(path).absent())
    except ConfigError as error:
        said = str(error)
    assert said.startswith(f"{path}: ")
    assert sentence in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("name: a\nname: b\n", "line 2, column 1: key 'name' is given twice"),
        ("seeds: [0\n", "line 2, column 1: expected ',' or ']', but got '<stream end>'"),
        ("pretrain:\n\tlr: 3\n", "line 2, column 1: a tab; indent by spaces"),
    ],
)
def test_what_is_no_yaml_is_one_sentence_with_its_line(text, sentence, tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(path)
    assert str(refused.value) == f"{path}: not valid YAML: {sentence}"


def test_a_number_may_be_written_as_in_json(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "study.yaml", tiny())
    path.write_text(path.read_text().replace("lr: 0.05", "lr: 1e-3"))
    assert {run.config.lr for run in load(path).runs.values()} == {0.001}


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("cuda", "'cuda' is not there: torch sees 0 GPUs.*; give auto or cpu$"),
        ("cuda:1", "'cuda:1' is not there"),
        ("gpu", "'gpu' is no device; give auto, cpu, cuda or cuda:N$"),
    ],
)
def test_a_device_that_is_not_there_is_named(name, sentence):
    with pytest.raises(ConfigError, match=f"^--device: {sentence}"):
        device.choose(name)


def test_suggestions_are_only_for_what_is_alike():
    assert did_you_mean("stdy", ["study", "gpu_slots"]) == " (did you mean 'study'?)"
    assert did_you_mean("MoCo-v2", ["moco_v2"]) == " (did you mean 'moco_v2'?)"
    assert did_you_mean("banana", ["study", "gpu_slots"]) == ""


def test_help_lists_every_command_in_a_group_and_no_default_of_none():
    (commands,) = (action.choices for action in parser()._actions if action.choices)
    grouped = [name for names in GROUPS.values() for name in names]
    assert sorted(grouped) == sorted(commands)
    for name, sub in commands.items():
        assert "None" not in sub.format_help(), name
        assert "==SUPPRESS==" not in sub.format_help(), name
        assert f"mlssl {name}" in sub.format_help().split("examples:\n")[1], name
        for action in sub._actions:
            takes = action.nargs != 0 and action.choices is None and action.dest != "study"
            if takes and action.option_strings:
                assert action.metavar not in (None, action.dest.upper()), f"{name} {action.option_strings}"


def test_a_lock_that_a_killed_call_has_left_is_named_and_not_removed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run.left_lock() == ""
    lock = tmp_path / ".snakemake" / "locks" / "0.output.lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    assert "if none runs: `mlssl run demo --unlock`" in run.left_lock().format("demo")
    code = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "snakemake"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        other.stdout.readline()
        assert run.left_lock() == ""
        other.communicate()
    assert lock.exists()


@pytest.mark.parametrize("word", ["est", "ti"])
def test_a_shell_completes_commands_and_studies(word, monkeypatch, capsys):
    code, script = called(monkeypatch, capsys, "completion", "bash")
    assert code == 0
    before = "mlssl" if word == "est" else "mlssl run"
    place = f"COMP_WORDS=({before} {word}); COMP_CWORD={len(before.split())}; _mlssl; echo ${{COMPREPLY[0]}}"
    done = subprocess.run(["bash", "-c", f"{script}\n{place}"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == {"est": "estimate", "ti": "tiny"}[word]


@pytest.mark.slow
def test_snakemake_puts_no_frame_around_a_sentence(tmp_path):
    output = snakemake(tmp_path, ROOT / "config" / "tiny.yaml", "stdy=x", "-n", check=False)
    assert output.splitlines()[-1].startswith("--config: unknown key 'stdy' (did you mean 'study'?); known")
    assert "WorkflowError" not in output


@pytest.mark.slow
def test_a_dry_run_has_plan_and_price_first_and_counts_what_snakemake_counts(tmp_path):
    output = snakemake(tmp_path, ROOT / "config" / "tiny.yaml", "-n")
    total = next(line.split()[1] for line in output.splitlines() if line.startswith("total "))
    assert (
        f"{total} jobs of Snakemake: 47 of them are in the estimate, the other 11: 7 of seconds"
        in output.splitlines()[-1]
    )
    assert "6 runs, 47 jobs" in output
