"""Checks of an installation: expected vectors and speed."""
