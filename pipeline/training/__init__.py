"""`attent train` and `attent stream`: an index file → batches."""
