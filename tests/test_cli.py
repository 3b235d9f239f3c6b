"""The commands, called by hand."""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.snakemake import small, write
from support.tiny_coco import write_backbone, write_coco

from mlssl import results
from mlssl.cli import main, parser
from mlssl.cli.options import named
from mlssl.errors import ConfigError
from mlssl.project import study_file
from mlssl.study.load import load
from mlssl.transfer import linear

ROOT = Path(__file__).parents[1]


@pytest.fixture
def call(monkeypatch, capsys):
    """`call(*arguments, cwd)` is the exit code of a command and what it writes on stderr, in this process."""

    def call(*arguments, cwd=ROOT):
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", ["mlssl", *map(str, arguments)])
        return main(), capsys.readouterr().err

    return call


def mlssl(*arguments, cwd=ROOT):
    command = [sys.executable, "-m", "mlssl", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def test_help_lists_every_command_without_torch():
    command = [sys.executable, "-X", "importtime", "-m", "mlssl", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "mlssl.study.settings" in done.stderr
    assert "torch" not in done.stderr
    for name in ("scenes", "store", "resolve", "pretrain", "linear", "detection", "segmentation", "collect"):
        assert name in done.stdout


def test_a_mistake_is_one_clear_sentence(tmp_path, call):
    code, output = call("pretrain", "--config", tmp_path / "none.yaml", "--out", tmp_path / "out")
    assert code == 1
    assert output.strip().splitlines()[-1].endswith("none.yaml: no such file; check the path")
    done = mlssl("resolve", "mls-nothing", "--study", "config/tiny.yaml", "--out", tmp_path / "x.yaml")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "has no run or transfer 'mls-nothing'" in done.stderr


@pytest.mark.parametrize(("words", "rule"), [(["check"], "check"), (["pretrain", "--run-name", "RUN"], "store")])
def test_a_stage_before_its_images_are_made_says_what_makes_them(tmp_path, monkeypatch, capsys, words, rule):
    study = ROOT / "config" / "tiny.yaml"
    monkeypatch.chdir(tmp_path)
    run = next(name for name in load(study).runs if name.startswith("mls-"))
    words = [run if word == "RUN" else word for word in words]
    monkeypatch.setattr(sys, "argv", ["mlssl", words[0], "--study", str(study), *words[1:]])
    assert main() == 1
    sentence = capsys.readouterr().err.strip()
    assert "data.scenes: results/data/scenes-" in sentence
    assert sentence.endswith(f"has not been made yet; `mlssl run {study} --cores 2 --until {rule}` makes it")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["settings", "--out", "folder"], "folder: is a directory; give another path, or change what is there"),
        (["settings", "--out", "file/x"], "file: file exists; give another path, or change what is there"),
        (["scenes", "--out", "x", "--images", "4", "--size", "8"], "--size: 8 x 8 pixels are too few"),
        (["status", "--study", "empty.yaml"], "empty.yaml: holds nothing; give a mapping of keys to values"),
    ],
)
def test_a_refusal_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "empty.yaml").touch()
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(sys, "argv", ["mlssl", *arguments])
    assert main() == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"mlssl {arguments[0]}: {message}")
    assert sorted(tmp_path.rglob("*")) == before


ZERO = {"--seed", "--near", "--max-skipped", "--val-share"}
"""Options of the command line that may be 0."""
SETTINGS = ("neighbours", "histograms", "search-benchmark")
"""Commands whose options are settings, which have a range of their own."""


def test_every_number_of_the_command_line_is_refused_below_its_range():
    (commands,) = (action.choices for action in parser()._actions if isinstance(action.choices, dict))
    checked = 0
    for name, command in commands.items():
        for action in command._actions:
            if action.type in (None, Path, study_file, named):
                continue
            option, checked = action.option_strings[0], checked + 1
            for value in ("-1", "x", *(["0"] if option not in ZERO and name not in SETTINGS else [])):
                with pytest.raises(argparse.ArgumentTypeError, match="is not allowed; give"):
                    action.type(value)
                    pytest.fail(f"{name} {option} {value} is accepted")
    assert checked > 40


@pytest.mark.parametrize("words", ["--cores 0", "--cores=0", "-c -1", "-c0", "-n --jobs 0"])
def test_a_study_on_no_core_is_refused(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mlssl", "run", "tiny", *words.split()])
    assert main() == 1
    assert capsys.readouterr().err.endswith("is not allowed; give at least 1\n")


@pytest.mark.slow
def test_a_reader_that_closes_the_pipe_gets_no_traceback():
    ran = subprocess.run(
        f"{sys.executable} -m mlssl settings | true", shell=True, cwd=ROOT, capture_output=True, text=True
    )
    assert ran.stderr == ""


@pytest.mark.long
def test_by_hand_from_scenes_to_a_result(tmp_path):
    """The README's steps without Snakemake."""
    scenes = tmp_path / "scenes"
    out = ("--out", tmp_path / "linear.json")
    steps = [
        ("scenes", "--out", scenes, "--images", 24, "--val-images", 12, "--size", 64, "--workers", 1),
        ("pretrain", "--config", tmp_path / "mls.yaml", "--out", tmp_path / "run", "--threads", 1),
        ("linear", "--backbone", tmp_path / "run/backbone.pt", "--config", tmp_path / "linear.yaml", *out),
    ]
    (tmp_path / "mls.yaml").write_text(
        f"data: {{root: {scenes}}}\nmethod: mls\ntarget: mlssl.method.mls.MLS\n"
        "params: {dictionary_size: 16, k: 2}\nbackbone: test_resnet\nepochs: 1\nbatch_size: 8\nviews: {crop: 32}\n"
    )
    (tmp_path / "linear.yaml").write_text(f"data: {{root: {scenes}}}\nsize: 32\nfractions: [1.0]\niterations: 5\n")
    for step in steps:
        done = mlssl(*step, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "linear.json").read_text())
    assert result["header"]["run"] == "run"
    header = result["header"]
    assert {"digest", "config_digest", "commit", "versions", "device", "seed", "wall_s"} <= set(header)
    assert header["data"]["data_id"] == header["data"]["all"]
    assert "mlssl/transfer/linear.py" in header["code"]
    assert [(r["protocol"], r["metric"], r["n"]) for r in result["rows"]] == [("linear", "mAP", 12)]
    done = mlssl(*steps[-1], cwd=tmp_path)
    assert done.returncode == 0
    assert "linear.json: exists already; nothing to do" in done.stderr
    (tmp_path / "linear.yaml").write_text(f"data: {{root: {scenes}}}\nsize: 32\nfractions: [1.0]\niterations: 6\n")
    done = mlssl(*steps[-1], cwd=tmp_path)
    assert done.returncode == 1
    assert "linear.json: there is another result already; move it away, or write elsewhere" in done.stderr


def test_a_result_that_an_orphaned_job_has_made_meanwhile_is_left_as_it_is(tmp_path, monkeypatch, capsys):
    backbone = write_backbone(tmp_path / "backbone.pt")
    (tmp_path / "linear.yaml").write_text("data: {root: ., images_id: images, data_id: data}\n")
    command = ["mlssl", "linear", "--backbone", str(backbone), "--config", str(tmp_path / "linear.yaml"), "--out"]
    row = {"protocol": "linear", "metric": "mAP", "value": 1.0, "n": 12}
    monkeypatch.setattr(linear, "evaluate", lambda *_, **__: ([row], {}))
    monkeypatch.setattr(sys, "argv", [*command, str(tmp_path / "orphan.json")])
    assert main() == 0

    def overtaken(*_, **__):
        (tmp_path / "orphan.json").rename(tmp_path / "linear.json")
        return [row | {"value": 2.0}], {}

    monkeypatch.setattr(linear, "evaluate", overtaken)
    monkeypatch.setattr(sys, "argv", [*command, str(tmp_path / "linear.json")])
    assert main() == 0
    assert "linear.json: another process has written it meanwhile; its result is kept" in capsys.readouterr().err
    assert json.loads((tmp_path / "linear.json").read_text())["rows"] == [row]


ABOUT = {"stage": "linear", "run": "run", "seed": 0, "digest": "d", "config_digest": "c"}
HEADER = {"format": results.FORMAT, **ABOUT}


OTHERS = [HEADER | {key: 1} for key in ("stage", "digest", "seed", "config_digest", "format")]


@pytest.mark.parametrize(
    "values", [None, [], {}, {"header": HEADER}, *({"header": header, "rows": []} for header in OTHERS)]
)
def test_what_is_not_this_very_result_is_never_replaced(tmp_path, values):
    path = tmp_path / "linear.json"
    path.write_text("" if values is None else json.dumps(values))
    before = path.read_text()
    with pytest.raises(FileExistsError, match="another result"):
        results.exists(path, ABOUT)
    with pytest.raises(FileExistsError, match="another result"):
        results.write_result(path, {"header": HEADER, "rows": []})
    assert path.read_text() == before


def test_a_result_is_written_once_and_then_kept(tmp_path, capsys):
    path = tmp_path / "linear.json"
    assert not results.exists(path, ABOUT)
    assert results.read_result(path) is None
    for rows in ([{"value": 1.0}], [{"value": 2.0}]):
        results.write_result(path, {"header": HEADER, "rows": rows})
    assert results.exists(path, ABOUT)
    assert results.read_result(path)["rows"] == [{"value": 1.0}]
    assert "its result is kept" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not valid JSON"),
        ("[]", "keys 'header' and 'rows' are missing"),
        ('{"header": [], "rows": []}', "keys 'header' and 'rows' are missing"),
        ('{"header": {}, "rows": []}', "has header format 1, this version reads 2"),
    ],
)
def test_a_file_that_is_no_result_of_this_version_is_named(tmp_path, text, words):
    path = tmp_path / "linear.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words) as refused:
        results.read_result(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert "move it away and run this stage again" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_check_names_the_transfers_that_the_data_lack_labels_for(tmp_path, call):
    root = write_coco(tmp_path / "coco")
    study = write(tmp_path / "study.yaml", small(data={"root": str(root)}, transfers={"linear": {}, "dense": {}}))
    code, output = call("check", "--study", study, "--out", tmp_path / "check.txt", cwd=tmp_path)
    assert code == 0
    assert "linear: the data have what it needs" in output
    path = root / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"annotations": []}))
    call("check", "--study", study, "--out", tmp_path / "check.txt", cwd=tmp_path)
    text = (tmp_path / "check.txt").read_text()
    assert f"linear: left out: {path}: no category is on some" in text
    assert f"dense: left out: {path}: no image has an object" in text


def test_a_study_goes_on_without_an_evaluator_that_cannot_use_its_data(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    root = write_coco(tmp_path / "coco")
    path = root / "annotations" / "instances_val2017.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"annotations": []}))
    values = small(data={"root": str(root)}, methods={"random": {}}, compare=["random"], common={})
    study = write(tmp_path / "study.yaml", values | {"transfers": {"regions": {"size": 32}}})
    loaded = load(study)
    (run,) = loaded.runs
    folder = loaded.out / "runs" / run
    write_backbone(folder / "backbone.pt", name="test_resnet")
    code, output = call("regions", "--study", study, "--run-name", run, cwd=tmp_path)
    assert code == 0, output
    assert "regions: left out: " in output
    (result,) = folder.glob("regions-*.json")
    found = json.loads(result.read_text())
    assert found["rows"] == []
    assert "no box of an object" in found["header"]["notes"]["left_out"]
