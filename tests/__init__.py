"""Tests of the engine, its Python package and its tools."""
