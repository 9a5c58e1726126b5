"""Rounds whose parameters are decided from what was measured."""
