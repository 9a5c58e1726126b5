"""Regressions that extend values from a sample of measured samples to all of them."""
