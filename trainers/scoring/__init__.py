"""Rows and a model → losses; evaluation with the same batches."""
