"""`attent select`: loss tables → an index file."""
