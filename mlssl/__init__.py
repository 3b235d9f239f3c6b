"""mlssl: multi-label self-supervised learning with scene images, as a benchmark and ablation suite."""

__version__ = "0.2.0"
