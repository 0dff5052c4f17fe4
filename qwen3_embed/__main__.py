"""`python -m qwen3_embed` is `qwen3-embed`."""

from .cli import main

raise SystemExit(main())
