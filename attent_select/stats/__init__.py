"""Statistics that any cut gives alike: histograms, tests, and counter-based randomness."""
