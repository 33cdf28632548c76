"""Longer measurements: ``python -m benchmarks.NAME --out DIR``."""
