"""Thin files between this package and others, one a project, each imported by its own name.

They import their project when they are imported, and nothing else of this package imports them.
"""
