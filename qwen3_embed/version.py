"""The version, and the version of the numbers."""

__version__ = "0.2.0"

NUMERICS_VERSION = 2
"""Raised with every change that moves a vector's bits; part of every fingerprint."""
