"""Annotations of a corpus: named columns with one value per sample, made once and shared."""
