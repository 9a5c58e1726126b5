"""Decoders of encoded images that are quicker than opening the file with Pillow."""
