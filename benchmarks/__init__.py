"""Measurements: `python -m benchmarks [--only NAME] [--quick]`; one file per op, one registry, one runner."""
