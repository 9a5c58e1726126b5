"""Selection strategies, one per file; the file name is the strategy's name in the configuration."""
