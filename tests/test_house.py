"""The house's arrows: who may import whom, read from the source, and what planning really imports."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LEAVES = {f"mlssl.{name}" for name in ("errors", "files", "digest", "seeds", "ranges", "project", "results")}
"""What any room may import, but methods."""
ALLOWED = {
    "mlssl/errors.py": set(),
    "mlssl/files.py": set(),
    "mlssl/digest.py": set(),
    "mlssl/seeds.py": set(),
    "mlssl/ranges.py": set(),
    "mlssl/project.py": set(),
    "mlssl/results.py": {"mlssl.errors", "mlssl.files"},
    "mlssl/tensors.py": LEAVES,
    "mlssl/api.py": LEAVES | {"mlssl.study", "mlssl.data", "mlssl.pretrain", "mlssl.transfer", "mlssl.runtime"},
    "mlssl/study": LEAVES | {"mlssl.study", "mlssl.datasets.counts"},
    "mlssl/runtime": LEAVES | {"mlssl.runtime", "mlssl.parts.view", "mlssl.parts.method"},
    # A method reads like its paper: it knows no settings, files or data.
    "mlssl/parts": LEAVES | {"mlssl.parts", "mlssl.runtime.distributed"},
    "mlssl/method": {"mlssl.method", "mlssl.parts", "mlssl.ranges", "mlssl.errors"},
    # ORL's loss is BYOL's; SoCo's variants share boxes and loss.
    "baselines": {
        "baselines.byol",
        "baselines.soco",
        "mlssl.method.losses",
        "mlssl.method.pseudo_labels",
        "mlssl.parts",
        "mlssl.ranges",
    },
    "mlssl/data": LEAVES
    | {"mlssl.data", "mlssl.parts.view", "mlssl.study.settings"}
    | {"mlssl.study.code", "mlssl.study.identity"},
    "mlssl/checkpoints": LEAVES | {"mlssl.checkpoints", "mlssl.tensors"},
    "mlssl/export": LEAVES
    | {"mlssl.export", "mlssl.checkpoints.names", "mlssl.data.images", "mlssl.parts", "mlssl.transfer.load"},
    "mlssl/scenes": LEAVES | {"mlssl.scenes"},
    "mlssl/datasets": LEAVES | {"mlssl.datasets", "mlssl.data"},
    "mlssl/photos": LEAVES | {"mlssl.photos", "mlssl.data"},
    "mlssl/pretrain": LEAVES
    | {"mlssl.pretrain", "mlssl.checkpoints", "mlssl.data", "mlssl.parts", "mlssl.runtime", "mlssl.tensors"}
    | {
        f"mlssl.study.{name}"
        for name in ("settings", "methods", "identity", "sources", "fingerprint", "code", "validation")
    },
    "mlssl/transfer": LEAVES
    | {"mlssl.transfer", "mlssl.data", "mlssl.parts.backbone", "mlssl.runtime", "mlssl.tensors"}
    | {"mlssl.study.settings"},
    "mlssl/analysis": LEAVES | {"mlssl.analysis", "mlssl.study"},
    # Pure functions on arrays.
    "mlssl/statistics": {"mlssl.statistics"},
    "mlssl/claims": LEAVES | {"mlssl.claims", "mlssl.statistics", "mlssl.analysis", "mlssl.study"},
    "mlssl/figures": LEAVES
    | {"mlssl.figures", "mlssl.claims", "mlssl.statistics", "mlssl.analysis", "mlssl.study"}
    | {"mlssl.cost_benchmark.table"},
    "mlssl/tables": LEAVES
    | {
        "mlssl.tables",
        "mlssl.claims",
        "mlssl.statistics",
        "mlssl.analysis",
        "mlssl.study",
        "mlssl.datasets.counts",
    },
    "mlssl/page": LEAVES
    | {
        "mlssl.page",
        "mlssl.cost_benchmark.table",
        "mlssl.tables",
        "mlssl.claims",
        "mlssl.statistics",
        "mlssl.analysis",
        "mlssl.study",
    },
    "mlssl/pictures": LEAVES
    | {
        "mlssl.pictures",
        "mlssl.analysis.names",
        "mlssl.figures.style",
        "mlssl.pretrain.trained",
        "mlssl.data",
        "mlssl.parts",
        "mlssl.tensors",
    }
    | {"mlssl.study.settings", "mlssl.study.validation"},
    "mlssl/search_benchmark": LEAVES
    | {"mlssl.search_benchmark", "mlssl.pictures.embed", "mlssl.pretrain.trained"}
    | {"mlssl.figures.style", "mlssl.cost.timing"}
    | {"mlssl.data", "mlssl.parts", "mlssl.study.settings"},
    "mlssl/cost_benchmark": LEAVES
    | {"mlssl.cost_benchmark", "mlssl.cost.speed", "mlssl.parts.dictionary", "mlssl.study", "mlssl.data"},
    "mlssl/cost": LEAVES
    | {"mlssl.cost", "mlssl.study", "mlssl.pretrain", "mlssl.transfer", "mlssl.scenes", "mlssl.data", "mlssl.parts"}
    | {"mlssl.runtime", "mlssl.tensors", "mlssl.pictures.size"},
}
"""Room -> what it may import of `mlssl` and `baselines`; the commands of `mlssl.cli` may import all."""
NO_TORCH = tuple(f"{name.replace('.', '/')}.py" for name in sorted(LEAVES))
NO_TORCH += ("mlssl/study", "mlssl/analysis", "mlssl/tables", "mlssl/figures", "mlssl/page")
NO_TORCH += ("mlssl/datasets/counts.py",)
NO_TORCH += (
    "mlssl/cost/rates.py",
    "mlssl/cost/estimate.py",
    "mlssl/cost/near.py",
    "mlssl/cost/own_photos.py",
    "mlssl/runtime/launch.py",
)
NO_TORCH += ("mlssl/data/selective_search.py",)
NO_TORCH += ("mlssl/statistics", "mlssl/claims", "mlssl/data/coco.py", "mlssl/transfer/needs.py")
PACKAGES = (
    "mlssl",
    "baselines",
    *(f"mlssl.{name}" for name in ("study", "runtime", "cost", "cost_benchmark", "pretrain", "data")),
)
"""`from mlssl.study import settings` names a module of these."""


def files(room):
    path = ROOT / room
    return [path] if path.suffix else sorted(path.rglob("*.py"))


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            of_a_package = node.module in PACKAGES
            yield from (f"{node.module}.{name.name}" for name in node.names) if of_a_package else (node.module,)


@pytest.mark.parametrize("room", ALLOWED)
def test_arrows(room):
    assert files(room)
    for path in files(room):
        for name in imports(path):
            if name.split(".")[0] not in ("mlssl", "baselines"):
                continue
            fits = any(f"{name}.".startswith(f"{allowed}.") for allowed in ALLOWED[room])
            assert fits, f"{path.relative_to(ROOT)} may not import {name}"


@pytest.mark.parametrize("room", NO_TORCH)
def test_rooms_without_torch(room):
    for path in files(room):
        assert not [n for n in imports(path) if n.split(".")[0] in ("torch", "torchvision", "timm")], path


STUDY = str(ROOT / "config" / "demo.yaml")
EXPANSION = "import sys; from mlssl.study import load, progress, reference; study = load.load(sys.argv[1])"
EXPANSION += "; progress.Progress(study).status(); reference.markdown()"
LIGHT = {
    "help": (["-m", "mlssl", "--help"], {"torch"}),
    "expansion": (["-c", EXPANSION, STUDY], {"torch", "timm", "numpy", "pandas"}),
    "estimate": (["-c", "import mlssl.cost.estimate"], {"torch", "numpy", "pandas", "matplotlib"}),
    "outputs": (["-c", "import mlssl.analysis.outputs"], {"torch", "pandas", "matplotlib"}),
    # Snakemake's plugin for Slurm imports pandas, if it is installed.
    "dry run": (["-m", "snakemake", "--snakefile", str(ROOT / "Snakefile"), "-n", "--config", f"study={STUDY}"],
                {"torch", "matplotlib"}),
}  # fmt: skip
"""What answers at once -> arguments of Python, and packages that it may not import, not even indirectly."""


@pytest.mark.parametrize("name", LIGHT)
def test_what_answers_at_once_imports_no_heavy_package(name, tmp_path):
    arguments, heavy = LIGHT[name]
    command = [sys.executable, "-X", "importtime", *arguments]  # names every module imported
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    modules = {line.rsplit("|", 1)[1].strip() for line in lines}
    assert any(module.startswith("mlssl.") for module in modules)
    assert not modules & heavy


def test_every_module_belongs_to_a_room():
    for path in [*(ROOT / "mlssl").rglob("*.py"), *(ROOT / "baselines").rglob("*.py")]:
        name = path.relative_to(ROOT).as_posix()
        if name.startswith("mlssl/cli/"):
            continue
        assert name in ("mlssl/__init__.py", "mlssl/__main__.py") or any(
            name == room or name.startswith(f"{room}/") for room in ALLOWED
        ), name


def test_methods_are_short_enough_to_read_beside_the_paper():
    for path in [*(ROOT / "mlssl" / "method").glob("*.py"), *(ROOT / "baselines").glob("*.py")]:
        assert len(path.read_text().splitlines()) < 200, path
