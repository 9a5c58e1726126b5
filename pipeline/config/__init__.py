"""The configuration: its sections, reading it, and what is wrong with it."""
