"""Candidates: the rows that a round draws where its budget is smaller than the corpus."""
