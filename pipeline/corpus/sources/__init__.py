"""Files and folders that a conversion reads, as rows of columns."""
