"""Lance files: their metadata and seal, reading and writing them, and estimates of what is read."""
