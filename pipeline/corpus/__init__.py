"""`attent ingest`: shards → a manifest, other files → shards."""
