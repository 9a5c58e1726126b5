"""`attent score`: spans of a corpus → losses, on the workers of a cluster."""
