"""Regressions that extend values from a sample of measured texts to all of them."""
