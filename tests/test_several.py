"""Several studies: `mlssl page A B` and `mlssl leaderboard`, from metrics.tsv alone."""

import math
import sys
import time

import numpy as np
import pandas as pd
import pytest
from test_page import Reader

from mlssl.analysis.outputs import IMAGE_GROUPS, METRICS, RUNS
from mlssl.analysis.several import read
from mlssl.cli import main
from mlssl.errors import ConfigError
from mlssl.page.several import MOST, compare, write_comparison, write_leaderboard
from mlssl.statistics.paired import difference
from mlssl.statistics.unpaired import unpaired

LINEAR = {"protocol": "linear", "metric": "mAP", "config_digest": "5e77", "data": "da7a", "n": 100}


def write(folder, scores, **changes):
    """A metrics.tsv with these scores: (method, digest) -> seed -> value; `changes` are other columns."""
    lines = []
    for (method, digest), by_seed in scores.items():
        for seed, value in by_seed.items():
            one = dict.fromkeys(METRICS) | {"method": method, "digest": digest, "seed": seed, "commit": "c0"}
            one |= {"run": f"{method}-{digest}-s{seed}", "status": "ok", "device": "cpu"}
            cost = {"protocol": "pretrain", "metric": "minutes", "value": 2.0, "config_digest": digest}
            score = LINEAR | {"value": value} | changes
            if value is None:
                score |= {"metric": "-", "status": "failed: boom", "config_digest": None, "data": None}
            lines += [one | cost, one | cost | {"metric": "images_seen", "value": 640}, one | score]
    folder.mkdir(parents=True, exist_ok=True)
    old = folder / "metrics.tsv"
    frame = pd.DataFrame(lines, columns=METRICS)
    if old.exists():
        frame = pd.concat([pd.read_csv(old, sep="\t", dtype=str, keep_default_na=False), frame])
    frame.to_csv(old, sep="\t", index=False, na_rep="NA")
    return folder


A = {("mls", "aa"): {0: 50.0, 1: 51.0, 2: 52.0}, ("moco_v2", "bb"): {0: 40.0, 1: 42.0}}
B = {("mls", "cc"): {0: 51.0, 1: 51.5, 2: 54.0}, ("moco_v2", "bb"): {5: 41.0, 6: 45.0, 7: 43.0}}


def test_paired_where_seeds_match_and_unpaired_where_not(tmp_path):
    page = compare(read([write(tmp_path / "a", A), write(tmp_path / "b", B)]))
    ((mls, moco),) = (side.table.rows for side in page.sides)
    # By hand: differences 1, 0.5, 2: mean 1.1667, sd 0.7638; t(2) = 4.3027, so +-4.3027 x 0.7638 / sqrt(3) = 1.897.
    assert [cell.text for cell in mls[3:]] == [
        "aa and cc", "51.00 ± 1.00 (3)", "52.17 ± 1.61 (3)", "+1.17 points [-0.73, 3.06]", "paired, n = 3",
        "undecided (needs n = 12)",
    ]  # fmt: skip
    assert moco[3].text == "the same"
    assert moco[7].text == "unpaired, n = 2 and 3"
    assert moco[6].text.startswith("+2.00 points [-")
    assert moco[5].text == "43.00 ± 2.00 (3)"


def test_welch_is_as_from_its_formula():
    x, y = np.array([41.0, 45.0, 43.0]), np.array([40.0, 42.0])
    found = unpaired(x, y)
    a, b = x.var(ddof=1) / 3, y.var(ddof=1) / 2
    df = (a + b) ** 2 / (a**2 / 2 + b**2 / 1)
    assert df == pytest.approx(2.8824, abs=1e-4)
    # The quantile of t by integrating its density, from the definition.
    t = np.linspace(0, 400, 4_000_001)
    density = (
        math.gamma((df + 1) / 2) / math.sqrt(df * math.pi) / math.gamma(df / 2) * (1 + t**2 / df) ** (-(df + 1) / 2)
    )
    quantile = t[np.searchsorted(np.cumsum(density) * (t[1] - t[0]), 0.475)]
    assert found.mean == 2
    assert (found.low, found.high) == pytest.approx(
        (2 - quantile * math.sqrt(a + b), 2 + quantile * math.sqrt(a + b)), abs=2e-3
    )
    assert math.isnan(unpaired([1.0], [2.0, 3.0]).low)
    assert math.isnan(unpaired([1.0, 1.0], [2.0, 2.0]).low)


def test_the_noise_of_evaluation_images_counts_where_it_is_known(tmp_path):
    rng = np.random.default_rng(0)
    groups = {}
    for name, scores in (("a", A), ("b", B)):
        folder, lines, images = write(tmp_path / name, scores), [], rng.normal(size=20)
        for seed, value in scores[next(iter(scores))].items():
            digest = next(iter(scores))[1]
            groups[name, seed] = value + images
            about = {"run": f"mls-{digest}-s{seed}", "protocol": "linear", "metric": "mAP"}
            lines += [about | {"group": g, "value": v} for g, v in enumerate(groups[name, seed])]
        pd.DataFrame(lines, columns=IMAGE_GROUPS).to_csv(folder / "image_groups.tsv", sep="\t", index=False)
    page = compare(read([tmp_path / "a", tmp_path / "b"]))
    out = np.array([groups["b", seed] - groups["a", seed] for seed in range(3)])
    low, high = difference([1.0, 0.5, 2.0], out).interval()
    assert page.sides[0].table.rows[0][6].text == f"+1.17 points [{low:.2f}, {high:.2f}]"
    assert high > 4


@pytest.mark.parametrize(
    ("change", "theirs"),
    [
        ({"config_digest": "0the"}, "settings 0the on data da7a"),
        ({"data": "0ther"}, "settings 5e77 on data 0ther"),
        ({"head": "4conv1fc"}, "head 4conv1fc, settings 5e77 on data da7a"),
        ({"data": None}, "settings 5e77 on data that are not recorded"),
    ],
)
def test_other_settings_data_or_heads_are_refused_by_name(tmp_path, change, theirs):
    a, b = write(tmp_path / "a", A), write(tmp_path / "b", B, **change)
    sentence = f"linear: not compared, because a has settings 5e77 on data da7a, b has {theirs}"
    with pytest.raises(ConfigError, match=f"^{sentence}; evaluate both"):
        compare(read([a, b]))
    # With another evaluator in common, the page has that one, and says the same of the first.
    for folder, scores in ((a, A), (b, B)):
        write(folder, scores, protocol="knn")
    (side,) = compare(read([a, b])).sides
    assert side.refused == (sentence,)
    assert {row[1].text for row in side.table.rows} == {"knn"}
    boards = pd.read_csv(boarded([a, b], tmp_path) / "leaderboard.tsv", sep="\t", keep_default_na=False)
    linear = boards[boards["protocol"] == "linear"]
    assert linear.groupby(["settings", "data", "head"])["study"].nunique().tolist() == [1, 1]


def test_data_that_neither_records_are_not_taken_for_the_same(tmp_path):
    folders = [write(tmp_path / name, scores, data=None) for name, scores in (("a", A), ("b", B))]
    with pytest.raises(ConfigError, match="a has settings 5e77 on data that are not recorded, b has"):
        compare(read(folders))


def boarded(folders, tmp_path):
    write_leaderboard(read(folders), tmp_path / "board")
    return tmp_path / "board"


def test_a_leaderboard_ranks_and_counts_what_failed(tmp_path):
    b = {**B, ("mls", "cc"): {**B["mls", "cc"], 3: None}, ("densecl", "dd"): {0: None}}
    folder = boarded([write(tmp_path / "a", A), write(tmp_path / "b", b)], tmp_path)
    board = pd.read_csv(folder / "leaderboard.tsv", sep="\t")
    assert board[["method", "study", "n"]].to_numpy().tolist() == [
        ["mls", "b", 3], ["mls", "a", 3], ["moco_v2", "b", 3], ["moco_v2", "a", 2], ["densecl", "b", 0],
    ]  # fmt: skip
    assert board["mean"][0] == pytest.approx(np.mean([51.0, 51.5, 54.0]))
    assert board["sd"][0] == pytest.approx(np.std([51.0, 51.5, 54.0], ddof=1))
    assert board["absent"].fillna("").tolist() == ["1 failed", "", "", "", "1 failed"]
    (table,) = Reader((folder / "index.html").read_text()).tables
    assert table[1] == ["MLS", "b", "52.17 ± 1.61", "3 (1 failed)", "640"]
    assert (
        "| mls      | b       | 52.17 ± 1.61 | 3 (1 failed) | 640           |"
        in (folder / "leaderboard.md").read_text()
    )


def test_levels_have_the_names_of_the_tables_where_runs_tsv_is_there(tmp_path):
    folders = []
    for name, digest in (("a", "a"), ("b", "b")):
        scores = {("mls", f"{digest}{i}"): {0: 50.0 + i, 1: 51.0 + i} for i in (1, 2)}
        folder = write(tmp_path / name, scores)
        places = [("k", "1", "1"), ("method", "mls", "1"), ("k", "20", "2")]
        lines = [{"axis": axis, "level": level, "method": "mls", "digest": digest + i} for axis, level, i in places]
        folders.append(folder)
        assert compare_names(read([folder])) == ["mls", "mls"]
        pd.DataFrame(lines, columns=RUNS).to_csv(folder / "runs.tsv", sep="\t", index=False, na_rep="NA")
    assert [row[0].text for row in compare(read(folders)).sides[0].table.rows] == ["MLS", "MLS, K = 20"]


def compare_names(results):
    return [entry.name for entries in results[0].entries.values() for entry in entries]


def test_what_is_no_study_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    a = write(tmp_path / "results" / "a", A)
    write(tmp_path / "results" / "b", B)
    assert [one.name for one in read(["results"])] == ["a", "b"]
    assert [one.name for one in read(["a", a / ".." / "b" / "metrics.tsv"])] == ["a", "b"]
    with pytest.raises(ConfigError, match="is given twice"):
        read(["a", a])
    with pytest.raises(ConfigError, match=r"^nowhere: has no metrics\.tsv, nor has a folder in it; give a folder"):
        read(["nowhere"])
    for words in (["page", "a", "b"], ["leaderboard", "results"]):
        monkeypatch.setattr(sys, "argv", ["mlssl", *words])
        assert main() == 0
    assert capsys.readouterr().out.split() == ["comparison.html", "leaderboard/index.html"]
    with pytest.raises(ConfigError, match="is one study alone"):
        compare(read(["a"]))


HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "{{ 7 * 7 }}",
    "métôde 方法 🦆 | &",
    "x" * 300,
)


def test_hostile_names_are_text_in_both_pages(tmp_path):
    scores = {(name, f"d{i}"): {0: 50.0 + i, 1: 50.5 + i} for i, name in enumerate(HOSTILE)}
    folders = [write(tmp_path / "<b>x", scores), write(tmp_path / "y", scores)]
    page = write_comparison(read(folders), tmp_path / "c.html")
    for path in (page, boarded(folders, tmp_path) / "index.html"):
        reader = Reader(path.read_text())
        assert len(reader.of("script")) == 1
        assert not reader.of("img") + reader.of("b")
        assert {"<b>x", *HOSTILE} <= {cell for table in reader.tables for line in table for cell in line}
    markdown = (tmp_path / "board" / "leaderboard.md").read_text()
    assert "<script>" not in markdown
    assert r"方法 🦆 \| &amp;" in markdown


def test_a_thousand_runs_of_twenty_evaluators_are_a_page_below_five_megabytes(tmp_path):
    scores = {(f"m{i}", f"d{i}"): {seed: 50.0 + seed + i / 100 for seed in range(5)} for i in range(200)}
    lines = write(tmp_path / "one", scores) / "metrics.tsv"
    frame = pd.read_csv(lines, sep="\t", dtype=str, keep_default_na=False)
    linear = frame[frame["protocol"] == "linear"]
    frame = pd.concat([frame, *(linear.assign(protocol=f"linear_{i}pct") for i in range(1, 20))])
    frame.to_csv(lines, sep="\t", index=False)
    start = time.process_time()
    page = boarded([tmp_path / "one"], tmp_path) / "index.html"
    assert time.process_time() - start < 10
    assert page.stat().st_size < 5_000_000
    assert len(Reader(page.read_text()).tables) == 20


def test_the_first_screen_has_the_first_methods_and_says_how_many_more_there_are(tmp_path):
    many = {(f"m{i}", f"d{i}"): {0: 50.0, 1: 51.0 + i} for i in range(MOST + 2)}
    page = compare(read([write(tmp_path / "a", many), write(tmp_path / "b", many)]))
    assert [answer.name for answer in page.answers[0].answers] == [f"m{i}" for i in range(MOST)]
    assert page.answers[0].note == "The table below has 2 more."
    assert len(page.sides[0].table.rows) == MOST + 2
