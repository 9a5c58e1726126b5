"""Modules of `benchmarks/pilot.py`."""
