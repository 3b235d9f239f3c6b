"""The measured cases, and the targets for the results."""

from __future__ import annotations

from dataclasses import dataclass

METHODS = {
    "moco_v2": ("baselines.moco_v2.MoCoV2", {}),
    "densecl": ("baselines.densecl.DenseCL", {}),
    "mls": ("mlssl.method.mls.MLS", {}),
    "byol": ("baselines.byol.BYOL", {}),
    "pixpro": ("baselines.pixpro.PixPro", {}),
    "slotcon": ("baselines.slotcon.SlotCon", {}),
    "self_emd": ("baselines.self_emd.SelfEMD", {}),
    "mls, ivf": ("mlssl.method.mls.MLS", {"search": "ivf"}),
}
"""Classes and scalars; the last one uses approximate search on a CPU and needs faiss."""


@dataclass(frozen=True)
class Case:
    """A backbone, a crop and a batch, and the short side of the images in the store (pixels)."""

    backbone: str
    crop: int
    batch: int
    short_side: int

    @property
    def name(self) -> str:
        return f"{self.backbone}, {self.crop} px, batch {self.batch}"

    @property
    def views(self) -> str:
        return f"{self.crop} px, batch {self.batch}"


CPU_INPUT = (Case("resnet18", 224, 32, 256), Case("resnet18", 64, 64, 128))
CPU_TRAINING = (Case("resnet18", 64, 64, 128),)
GPU = (Case("resnet18", 96, 256, 128), Case("resnet50", 224, 256, 256))
DICTIONARIES = (4096, 65536)
LARGE = 1_048_576
"""Size of a dictionary that only MLS is measured with."""
PHOTO = (640, 480)
"""Width and height of the JPEGs in pixels: about COCO's."""


@dataclass(frozen=True)
class Target:
    """A bound on one value of the tables; it applies to `device`."""

    device: str
    group: str
    case: str
    what: str
    per: str
    """The contender that the value is divided by; "" for images per second."""
    at_least: float | None = None
    at_most: float | None = None

    def met(self, value: float) -> bool:
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    @property
    def bound(self) -> str:
        return f"≥ {self.at_least:g}" if self.at_least is not None else f"≤ {self.at_most:g}"


SMALL, LARGE_CASE = (case.name for case in GPU)
TARGETS = (
    Target("cuda", "end to end", LARGE_CASE, "ours", "limit", at_least=0.95),
    Target("cuda", "end to end", SMALL, "ours", "limit", at_least=0.85),
    Target("cuda", "end to end", LARGE_CASE, "ours", "lightly", at_least=2),
    Target("cuda", "end to end", SMALL, "ours", "lightly", at_least=8),
    Target("cuda", "end to end", LARGE_CASE, "ours", "", at_least=2300),
    *(
        Target(device, "step", f"{case.backbone}, {case.crop} px, D {size}", "mls", "moco_v2", at_most=bound)
        for device, cases in (("cuda", GPU), ("cpu", CPU_TRAINING))
        for case in cases
        for size, bound in zip(DICTIONARIES, (1.02, 1.10), strict=True)
    ),
    Target("cpu", "input", CPU_INPUT[0].views, "ours", "lightly", at_least=3),
    Target("cpu", "end to end", CPU_TRAINING[0].name, "ours", "limit", at_least=0.9),
)
