"""Hybrid search with bm25s; see `qwen3_embed.retrieval.hybrid`."""

from __future__ import annotations

from ..retrieval.hybrid import Hit, HybridIndex, character_bigrams, fuse, words

__all__ = ["Hit", "HybridIndex", "character_bigrams", "fuse", "words"]
