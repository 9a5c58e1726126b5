"""`attent report` and `attent query`: what finished runs say."""
