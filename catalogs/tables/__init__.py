"""Parquet tables at rest: one file, many files, and scans of them."""
