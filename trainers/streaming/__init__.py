"""Selected samples, read ahead in a shuffled order, as batches."""
