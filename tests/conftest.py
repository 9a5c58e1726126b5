"""Settings of the whole test suite."""

from hypothesis import settings

# Deterministic, and without a deadline: the machine may be busy with the tests' own clusters.
settings.register_profile("suite", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("suite")
