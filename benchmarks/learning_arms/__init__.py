"""Modules of `benchmarks/learning.py`."""
