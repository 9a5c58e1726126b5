"""One file per strategy; the file name is its name in the configuration."""
