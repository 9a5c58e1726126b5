"""`attent doctor`: what will fail, and what it will cost, before a run."""
