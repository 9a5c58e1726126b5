"""`attent antk`: the kernel of a run's checkpoints."""
