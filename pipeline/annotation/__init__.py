"""attent annotate: annotations of a corpus, made on the workers of a cluster."""
