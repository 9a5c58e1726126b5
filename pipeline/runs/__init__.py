"""One run: its state, setting it up, the lease on it, export, garbage."""
