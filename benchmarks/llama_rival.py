"""llama.cpp as a rival of benchmarks/int8.py: a process of its own, with a library of its own.

    pip install llama-cpp-python      # in a virtual environment: brings llama.cpp, compiled there
    python benchmarks/llama_rival.py FILE THREADS

Reads lines of JSON, [texts, tokens, clock], and answers each with a line: the seconds of one pass
over that many texts of that many random ids of a GGUF file, by the wall ("wall") or of this
process ("cpu"). Texts go in one batch, and one after another; the shorter time counts.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
MAX_TOKENS = 4096


def open_context(model: Any, n_texts: int, n_threads: int) -> Any:
    """For batches of that many texts, pooled as the file says: by the last token."""
    import llama_cpp as llama

    params = llama.llama_context_default_params()
    params.n_ctx = params.n_batch = params.n_ubatch = MAX_TOKENS
    params.n_seq_max = n_texts
    params.n_threads = params.n_threads_batch = n_threads
    params.embeddings = True
    params.flash_attn_type = llama.LLAMA_FLASH_ATTN_TYPE_ENABLED
    context = llama.llama_init_from_model(model, params)
    assert context
    return context


def embed(context: Any, texts: list[list[int]]) -> list[list[float]]:
    """The vector of each text, all in one batch."""
    import llama_cpp as llama

    memory = llama.llama_get_memory(context)
    if memory:
        llama.llama_memory_clear(memory, True)
    n_tokens = sum(map(len, texts))
    batch = llama.llama_batch_init(n_tokens, 0, 1)
    at = 0
    for sequence, ids in enumerate(texts):
        for position, token in enumerate(ids):
            batch.token[at], batch.pos[at] = token, position
            batch.n_seq_id[at], batch.seq_id[at][0] = 1, sequence
            batch.logits[at] = 1
            at += 1
    batch.n_tokens = n_tokens
    assert llama.llama_decode(context, batch) == 0
    dim = llama.llama_model_n_embd(llama.llama_get_model(context))
    rows = [llama.llama_get_embeddings_seq(context, i)[:dim] for i in range(len(texts))]
    llama.llama_batch_free(batch)
    return rows


def main() -> None:
    import llama_cpp as llama
    import numpy as np

    path, n_threads = sys.argv[1], int(sys.argv[2])
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(path.encode(), llama.llama_model_default_params())
    assert model, path
    vocab_size = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(model))
    contexts: dict[int, Any] = {}
    print("ready", flush=True)
    for line in sys.stdin:
        n_texts, n_tokens, clock = json.loads(line)
        for n in {1, n_texts} - set(contexts):
            contexts[n] = open_context(model, n, n_threads)
        source = np.random.default_rng(n_texts + n_tokens)
        texts = source.integers(0, vocab_size, (n_texts, n_tokens)).tolist()
        times = []
        for size in {1, n_texts}:
            begin = CLOCKS[clock]()
            for start in range(0, n_texts, size):
                embed(contexts[size], texts[start : start + size])
            times.append(CLOCKS[clock]() - begin)
        print(min(times), flush=True)


if __name__ == "__main__":
    main()
