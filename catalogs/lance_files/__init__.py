"""Lance files: seal, contents, reading, estimated reads, writing. Imports pylance lazily, in one place."""
