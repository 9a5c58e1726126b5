"""Extending an annotation: values of a sample are measured, the others predicted."""
