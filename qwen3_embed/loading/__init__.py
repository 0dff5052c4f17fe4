"""Model name to open engine: files, configuration, tokenizer, devices."""
