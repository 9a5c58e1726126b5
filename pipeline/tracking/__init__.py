"""Trackers: programs that show curves of runs are sent the finished rounds of a run."""
