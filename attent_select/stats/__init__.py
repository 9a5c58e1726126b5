"""Statistics and random numbers that do not depend on how the rows are divided into chunks."""
