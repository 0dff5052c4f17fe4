"""The steps of one encode() call: options, texts, chunks, jobs."""
