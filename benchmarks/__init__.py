"""One question per file; run as `python -m benchmarks.NAME`."""
