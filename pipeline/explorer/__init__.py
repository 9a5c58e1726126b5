"""attent explore: a local web page about a corpus, its losses and annotations."""
