"""The house's arrows: who may import whom, read from the source."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LEAVES = {"mlssl.config", "mlssl.provenance", "mlssl.seeds"}
ALLOWED = {
    "mlssl/config.py": set(),
    "mlssl/seeds.py": set(),
    "mlssl/provenance.py": set(),
    "mlssl/scalars.py": LEAVES,
    "mlssl/source.py": LEAVES | {"mlssl.data.public.counts"},
    "mlssl/study.py": LEAVES | {"mlssl.scalars", "mlssl.source"},
    "mlssl/rates.py": LEAVES | {"mlssl.study"},
    "mlssl/calibration.py": LEAVES
    | {"mlssl.study", "mlssl.rates", "mlssl.estimate", "mlssl.engine.speed", "mlssl.transfer", "mlssl.data.scenes"}
    | {"mlssl.parts.backbone"},
    "mlssl/estimate.py": LEAVES | {"mlssl.study", "mlssl.rates"},
    "mlssl/ranks.py": {"mlssl.config"},
    "mlssl/parts": LEAVES | {"mlssl.parts", "mlssl.ranks"},
    "mlssl/method": LEAVES | {"mlssl.method", "mlssl.parts"},
    "baselines": {"mlssl.parts", "mlssl.method.losses"},
    "mlssl/data": LEAVES | {"mlssl.data", "mlssl.parts.view"},
    "mlssl/device.py": set(),
    "mlssl/gpu_slot.py": set(),
    "mlssl/weights.py": {"mlssl.config"},
    "mlssl/engine": LEAVES
    | {"mlssl.engine", "mlssl.data", "mlssl.parts", "mlssl.device", "mlssl.ranks", "mlssl.weights"},
    "mlssl/transfer": LEAVES
    | {
        "mlssl.transfer",
        "mlssl.data",
        "mlssl.parts.backbone",
        "mlssl.parts.batch_norm",
        "mlssl.device",
        "mlssl.ranks",
        "mlssl.weights",
    },
    "mlssl/analysis": LEAVES | {"mlssl.analysis", "mlssl.study", "mlssl.data.coco"},
}
NO_TORCH = ("mlssl/config.py", "mlssl/seeds.py", "mlssl/provenance.py", "mlssl/study.py", "mlssl/analysis")
NO_TORCH += (
    "mlssl/rates.py",
    "mlssl/estimate.py",
    "mlssl/source.py",
    "mlssl/scalars.py",
    "mlssl/data/public/counts.py",
)


def files(room):
    path = ROOT / room
    return [path] if path.suffix else sorted(path.rglob("*.py"))


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            whole = node.module in ("mlssl", "baselines")  # `from mlssl import config` names a module
            yield from (f"{node.module}.{name.name}" for name in node.names) if whole else (node.module,)


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


def test_every_module_belongs_to_a_room():
    for path in [*(ROOT / "mlssl").rglob("*.py"), *(ROOT / "baselines").rglob("*.py")]:
        name = path.relative_to(ROOT).as_posix()
        assert name in ("mlssl/__init__.py", "mlssl/__main__.py") or any(
            name == room or name.startswith(f"{room}/") for room in ALLOWED
        ), name


def test_methods_are_short_enough_to_read_beside_the_paper():
    for path in [*(ROOT / "mlssl" / "method").glob("*.py"), *(ROOT / "baselines").glob("*.py")]:
        assert len(path.read_text().splitlines()) < 200, path
