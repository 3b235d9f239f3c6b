"""Intervals, tests and power for differences over seeds and evaluation images: pure functions on arrays."""
