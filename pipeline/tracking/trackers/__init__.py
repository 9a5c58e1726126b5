"""Trackers, one per file; the file name is the name in `tracking`. Each imports its own library."""
