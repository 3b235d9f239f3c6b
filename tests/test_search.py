"""The searches of eq. 7: against slow loops, over a dictionary that is overwritten, and through a checkpoint."""

import json
import math
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from support.tiny_coco import IDENTIFIED, write_coco

from mlssl import tensors
from mlssl.data.store import build_store
from mlssl.errors import ConfigError
from mlssl.parts.dictionary import Dictionary
from mlssl.parts.search import PER_LIST, InvertedFile, exact, sampled_slots
from mlssl.pretrain.trained import read_run
from mlssl.search_benchmark.entries import fill_up
from mlssl.search_benchmark.figure import looks, search_figure, short
from mlssl.search_benchmark.measure import benchmark, in_sample, recall, rows_of
from mlssl.study import settings as config
from mlssl.study.identity import about_run
from mlssl.study.settings import SearchBenchmark
from mlssl.study.validation import build


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def clustered(rows, *, clusters=50, dim=16, spread=0.05, seed=0):
    rng = torch.Generator().manual_seed(seed)
    of = torch.randint(clusters, (rows,), generator=rng)
    return F.normalize(unit(clusters, dim, seed=99)[of] + spread * torch.randn(rows, dim, generator=rng), dim=1)


class Queue(Dictionary):
    """A dictionary of vectors alone."""

    def __init__(self, size, dim):
        super().__init__(size, {"g": (dim, torch.float32)})

    def take(self, rows):
        self.enqueue(g=rows)
        return self.read()["g"]


def test_exact_is_the_slow_loop():
    queries, entries = unit(5, 8), unit(40, 8, seed=1)
    similarity, index = exact(queries, entries, 7)
    for query, near, scores in zip(queries, index, similarity, strict=True):
        cosines = [float(query @ entry) for entry in entries]
        assert near.tolist() == sorted(range(40), key=lambda i: -cosines[i])[:7]
        assert scores.tolist() == pytest.approx(sorted(cosines, reverse=True)[:7])
    similarity, index = exact(queries.requires_grad_(), entries[:3], 7)
    assert index.shape == similarity.shape == (5, 3)
    assert not similarity.requires_grad


@pytest.mark.parametrize(("filled", "sample"), [(12, 4), (13, 4), (15, 4), (3, 4), (4, 4)])
def test_every_entry_is_sampled_alike(filled, sample):
    torch.manual_seed(0)
    draws = 600
    counts = torch.zeros(filled)
    for _ in range(draws):
        slots = torch.arange(filled)[sampled_slots(filled, sample)]
        assert torch.equal(slots, slots.sort().values)
        assert min(filled, sample) <= len(slots) < 2 * sample
        assert len(slots) == sample or filled % sample
        counts[slots] += 1
    stride = max(1, filled // sample)
    # Five standard deviations of a binomial.
    assert (counts / draws - 1 / stride).abs().le(5 * math.sqrt(0.25 / draws)).all()


def test_a_sample_is_a_view_of_the_same_rows_and_follows_the_global_generator():
    g, z = unit(64, 4), unit(64, 3)
    torch.manual_seed(3)
    state = torch.get_rng_state()
    rows = sampled_slots(64, 8)
    assert g[rows].data_ptr() == g.data_ptr() + rows.start * 4 * 4
    assert len(g[rows]) == len(z[rows]) == 8
    later = [sampled_slots(64, 8) for _ in range(20)]
    torch.set_rng_state(state)
    assert [sampled_slots(64, 8) for _ in range(21)] == [rows, *later]
    assert len({s.start for s in later}) > 1
    with pytest.raises(ConfigError, match="at least 1"):
        sampled_slots(64, 0)


def test_neighbours_in_a_sample_are_named_by_their_place_in_the_dictionary():
    entries = unit(64, 8)
    torch.manual_seed(1)
    similarity, index = in_sample(entries[:4], entries=entries, sample=16, k=3)
    assert torch.allclose((entries[:4, None] * entries[index]).sum(dim=2), similarity, atol=1e-6)
    assert len((index % 4).unique()) == 1


def test_all_lists_probed_is_exact_and_few_are_nearly_so_on_clusters():
    entries, queries = clustered(4000), clustered(32, seed=1)
    file = InvertedFile(4000, probes=10**6)
    file.update(entries, 4000)
    truth = exact(queries, entries, 10)
    similarity, index = file.nearest(queries, entries, 10)
    assert torch.equal(index, truth[1])
    assert torch.allclose(similarity, truth[0], atol=1e-6)
    file.probes = 8
    assert recall(file.nearest(queries, entries, 10)[1], truth[1]) > 0.95
    file.probes = 1
    assert recall(file.nearest(queries, entries, 10)[1], truth[1]) < 0.95  # it is lists that are searched


@pytest.mark.parametrize("skip", [1, 3, 40])
def test_overwritten_entries_are_never_found_again(skip):
    """`skip` steps lie between two updates: 40 of them overwrite the whole dictionary and more."""
    size, batch = 780, 30
    queue, file, queries = Queue(size, 16), InvertedFile(size, probes=10**6, refresh=2.5), clustered(8, seed=5)
    trained = set()
    for step in range(150):
        entries = queue.take(clustered(batch, seed=100 + step))
        if step % skip:
            continue
        file.update(entries, queue.written)
        found, truth = file.nearest(queries, entries, 12), exact(queries, entries, 12)
        assert torch.equal(found[1], truth[1])
        assert torch.allclose(found[0], truth[0], atol=1e-6)
        if file._index is not None:
            assert file._index.ntotal == len(entries)
            trained.add(file._trained)
    assert min(trained) >= PER_LIST * file.lists
    assert len(trained) > 1  # made anew in between
    assert all(b - a >= 2.5 * size for a, b in zip(sorted(trained), sorted(trained)[1:], strict=False))


def test_search_is_exact_before_the_lists_and_never_meets_an_empty_slot():
    queue, file = Queue(1000, 16), InvertedFile(1000, probes=1)
    queries = clustered(6, seed=2)
    while queue.written < 2000:
        entries = queue.take(clustered(100, seed=queue.written))
        file.update(entries, queue.written)
        index = file.nearest(queries, entries, 150)[1]
        # One list alone holds fewer than 150 entries: the search then compares all.
        assert index.shape == (6, min(150, len(entries)))
        assert index.min() >= 0
        assert index.max() < len(entries)
        assert all(len(row.unique()) == len(row) for row in index)
        assert torch.equal(index, exact(queries, entries, 150)[1])
    assert file.memory > 1000 * 16 * 4


def test_lists_made_before_the_dictionary_is_full_take_in_what_fills_and_what_overwrites_it():
    size, dim = 25_000, 4
    queue, file = Queue(size, dim), InvertedFile(size, probes=10**6)
    assert PER_LIST * file.lists < 24_700
    entries = queue.take(unit(24_700, dim))
    file.update(entries, queue.written)
    for part in unit(20_000, dim, seed=1).split(5000):
        entries = queue.take(part)
    file.update(entries, queue.written)
    assert file._trained == 24_700
    queries = unit(20, dim, seed=2)
    assert torch.equal(file.nearest(queries, entries, 5)[1], exact(queries, entries, 5)[1])


@pytest.mark.parametrize("stop", [5, 30, 31, 55])
def test_a_resumed_search_is_the_same_bit_for_bit(tmp_path, stop):
    """Duplicates make ties, whose order follows from that of the lists."""
    size, batch, steps = 400, 20, 60
    keys = [clustered(batch, seed=step % 7) for step in range(steps)]
    queries = clustered(8, seed=77)

    def go(queue, file, first, last):
        found = []
        for step in range(first, last):
            entries = queue.take(keys[step])
            file.update(entries, queue.written)
            found.append(file.nearest(queries, entries, 9))
        return found

    uninterrupted = go(Queue(size, 16), InvertedFile(size, probes=2), 0, steps)
    queue, file = Queue(size, 16), InvertedFile(size, probes=2)
    found = go(queue, file, 0, stop)
    # The keys of the last step are in the dictionary, but not yet in the lists.
    queue.take(keys[stop])
    torch.save((queue.state_dict(), file.state_dict()), tmp_path / "state.pt")

    resumed, file = Queue(size, 16), InvertedFile(size, probes=2)
    states = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed.load_state_dict(states[0])
    file.load_state_dict(states[1])
    again = file.state_dict()["_extra_state"]  # before first use: the state as loaded
    assert again["lists"].keys() == states[1]["_extra_state"]["lists"].keys()
    entries = resumed.read()["g"]
    file.update(entries, resumed.written)
    found += [file.nearest(queries, entries, 9), *go(resumed, file, stop + 1, steps)]
    assert all(
        torch.equal(a, b)
        for one, other in zip(uninterrupted, found, strict=True)
        for a, b in zip(one, other, strict=True)
    )


def test_without_faiss_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"pip install 'mlssl\[search\]'"):
        InvertedFile(100)


def test_mistaken_settings_of_the_lists_are_named():
    with pytest.raises(ConfigError, match="probes 0"):
        InvertedFile(100, probes=0)


def test_made_entries_are_unit_vectors_on_lines_through_two_crops_of_an_image():
    crops = unit(12, 5)
    image = torch.tensor([4, 4, 9, 9, 9, 2, 2, 4, 2, 9, 2, 4])
    entries = fill_up(crops, image, 40, torch.Generator().manual_seed(0))
    assert torch.equal(entries[:12], crops)
    assert torch.equal(fill_up(crops, image, 7, torch.Generator()), crops[:7])
    assert torch.allclose(entries.norm(dim=1), torch.ones(40))
    pairs = [(i, j) for i in range(12) for j in range(12) if i < j and image[i] == image[j]]
    planes = torch.stack([torch.linalg.qr(crops[[i, j]].T)[0] for i, j in pairs])
    inside = ((planes.mT @ entries[12:].T).norm(dim=1) - 1).abs() < 1e-5
    assert inside.any(dim=0).all()
    assert inside.any(dim=1).sum() > len(pairs) / 2  # of all pairs, not of a few


def test_recall_is_the_slow_loop():
    found, truth = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[3, 2, 9], [7, 8, 9]])
    shares = [len(set(f) & set(t)) / 3 for f, t in zip(found.tolist(), truth.tolist(), strict=True)]
    assert recall(found, truth) == pytest.approx(np.mean(shares))


@pytest.fixture
def checkpoint(tmp_path):
    from mlssl.pretrain.build import build_method

    root = write_coco(tmp_path / "coco")
    build_store(root / "train2017", tmp_path / "store", short_side=32, workers=1)
    values = {
        "data": {"root": str(root), **IDENTIFIED},
        "method": "moco_v2",
        "target": "baselines.moco_v2.MoCoV2",
        "params": {"dictionary_size": 16, "dim": 8},
        "backbone": "test_resnet",
        "batch_size": 4,
        "views": {"crop": 32},
    }
    settings = build(config.Pretrain, values, "test")
    method, _ = build_method(settings, torch.device("cpu"))
    state = {"method": method.state_dict(), "meta": about_run(settings, "tiny"), "seconds": 1.0}
    tensors.save(tmp_path / "checkpoint.pt", state)
    return tmp_path


SMALL = ["--sizes", "64,256", "--crops", "100", "--batch", "4", "--k", "5", "--device", "cpu", "--threads", "1"]


def test_the_verb_leaves_result_table_and_figure(checkpoint, monkeypatch, capsys):
    from mlssl.cli import main

    out = checkpoint / "out" / "search.json"
    source = ["--checkpoint", str(checkpoint / "checkpoint.pt"), "--store", str(checkpoint / "store")]
    monkeypatch.setattr(sys, "argv", ["mlssl", "search-benchmark", *source, "--out", str(out), *SMALL])
    assert main() == 0
    result = json.loads(out.read_text())
    header, rows = result["header"], result["rows"]
    assert (header["run"], header["device"], header["config"]["sizes"]) == ("tiny", "cpu", [64, 256])
    assert "are on lines" in header["notes"]["made"]
    assert {row["protocol"] for row in rows} == {"search"}
    values = {row["metric"]: row["value"] for row in rows}
    assert values["exact, recall at 256"] == 100
    assert "hnsw, update_ms at 64" not in values
    assert "logits, recall at 64" not in values
    table = pd.read_csv(out.with_suffix(".tsv"), sep="\t")
    ivf = table[(table["search"] == "ivf 1") & (table["size"] == 256)].iloc[0]
    assert 0 < ivf.recall <= 100
    assert ivf.step_ms == pytest.approx(ivf.ms + ivf.update_ms + 1000 * ivf.build_s * 4 / 256, abs=2e-3)
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert out.with_suffix(".pdf").exists()
    assert main() == 0
    assert "exists already; nothing to do" in capsys.readouterr().err


def test_too_few_crops_are_refused_before_the_work(checkpoint):
    from mlssl.data.store import ImageStore

    run, store = read_run(checkpoint / "checkpoint.pt"), ImageStore(checkpoint / "store")
    with pytest.raises(ConfigError, match="give --crops 24 or more, or --sizes up to 20"):
        benchmark(run, store, SearchBenchmark("moco_v2", sizes=(64,), crops=20, batch=4), torch.device("cpu"))


def test_rows_leave_out_what_does_not_apply():
    table = pd.DataFrame(
        {"size": [8, 8], "search": ["exact", "hnsw"], "queries": 3, "ms": 1.0, "update_ms": [0, np.nan]}
    )
    assert [(r["metric"], r["value"], r["n"]) for r in rows_of(table)] == [
        ("exact, ms at 8", 1.0, 3),
        ("hnsw, ms at 8", 1.0, 3),
        ("exact, update_ms at 8", 0.0, 3),
    ]


def test_figure_draws_every_search_at_its_values():
    ms = pd.DataFrame({"size": [64, 128, 64, 128, 64], "search": ["exact", "exact", "ivf 4", "ivf 4", "logits"]})
    times = {"ms": [1.0, 2, 3, 4, 5], "ms_q25": 0.5, "ms_q75": 6.0, "step_ms": [1.0, 2, 3.5, np.nan, 5]}
    table = ms.assign(recall=[100, 100, 90, 80, np.nan], **times)
    figure = search_figure(table, about="run x", notes="n")
    time, found = figure.axes
    assert [line.get_ydata().tolist() for line in found.lines] == [[100, 100], [90, 80], []]
    drawn = {c.get_label(): c.lines[0].get_ydata().tolist() for c in time.containers}
    assert drawn == {"exact": [1, 2], "ivf 4": [3.5, 4], "logits": [5]}
    assert [t.get_text() for t in figure.legends[0].get_texts()] == ["exact", "ivf 4", "logits"]
    with pytest.raises(KeyError):
        search_figure(table.drop(columns="recall"), about="", notes="")


def test_looks_and_ticks():
    assert list(looks(["hnsw", "ivf 16", "ivf 4", "sample 16384", "sample 4096", "exact"])) == [
        "exact",
        "sample 4096",
        "sample 16384",
        "ivf 4",
        "ivf 16",
        "hnsw",
    ]
    assert [short(n) for n in (500, 1000, 4096, 2**20)] == ["500", "1000", "4k", "1M"]
