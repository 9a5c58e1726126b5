"""Cheap losses: what measures them, and what is lost against whole losses."""
