"""`attent demo`: a whole run on data made here."""
