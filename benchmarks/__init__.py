"""Timed comparisons that a person runs: `python -m benchmarks.losses`."""
