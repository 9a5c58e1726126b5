"""Kinds of annotations, one per file; the file name is the kind."""
