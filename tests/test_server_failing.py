"""The server whose engine fails, or whose clients leave a reranking: what is told, what goes on."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ModelMaker

pytest.importorskip("uvloop")
pytest.importorskip("msgspec")
from qwen3_embed import Embedder
from tests.support.rerankers import make_reranker
from tests.support.served import Served

# `qwen3-embed serve` on an engine whose device fails at a text of more than 50 tokens.
FAILING = """
import sys
from qwen3_embed import Embedder
from qwen3_embed.cli import main
from qwen3_embed.errors import DeviceError
submit_tokens = Embedder.submit_tokens

def submit_or_fail(self, tokens, *arguments, **options):
    if len(tokens) > 50:
        raise DeviceError("device cuda:0: an illegal memory access was encountered")
    return submit_tokens(self, tokens, *arguments, **options)

Embedder.submit_tokens = submit_or_fail
sys.exit(main(["serve", *sys.argv[1:]]))
"""


def test_device_that_fails(folder: Path) -> None:
    """503 for the request; health is degraded from then on, and says why."""
    served = Served("--model", str(folder), program=(sys.executable, "-c", FAILING))
    try:
        status, answer, _ = served.ask("/health")
        assert (status, answer) == (200, {"status": "ok", "reason": None})
        body = {"input": "word " * 100, "model": folder.name}
        status, answer, headers = served.ask("/v1/embeddings", body)
        assert (status, answer["error"]["type"]) == (503, "server_error")
        assert "illegal" not in answer["error"]["message"]  # for the log and health alone
        assert int(headers["retry-after"]) > 0
        status, answer, _ = served.ask("/health")
        assert (status, answer["status"]) == (503, "degraded")
        assert "illegal memory access" in answer["reason"]
    finally:
        served.stop()


def test_vector_that_is_not_finite(folder: Path, tmp_path: Path) -> None:
    """500 for the text, named by its place; others are answered, and health is well."""
    broken = shutil.copytree(folder, tmp_path / folder.name)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    with Embedder(folder) as model:
        token = int(model.tokenizer.encode(["gravity"]).tokens[0])
        start = 8 + int.from_bytes(weights[:8], "little")
        table = json.loads(weights[8:start])["embed_tokens.weight"]["data_offsets"][0]
        row = start + table + 2 * model.dim * token
        weights[row : row + 2 * model.dim] = b"\xc0\x7f" * model.dim
        expected = model.encode("b")
    (broken / "model.safetensors").unlink()
    (broken / "model.safetensors").write_bytes(weights)
    served = Served("--model", str(broken))
    try:
        body = {"input": ["b", "gravity", "b"], "model": folder.name}
        status, answer, _ = served.ask("/v1/embeddings", body)
        assert status == 500
        assert answer["error"]["message"] == "input 1 gave a vector that is not finite"
        assert served.ask("/health")[0] == 200
        status, answer, _ = served.ask("/embed", {"inputs": "b"})
        assert status == 200
        assert np.array_equal(np.array(answer[0], np.float32), expected)
    finally:
        served.stop()


def test_reranking_that_nobody_waits_for(models: ModelMaker, tmp_path: Path) -> None:
    """It is taken back from the engine."""
    ranker = make_reranker(tmp_path / "ranker", "small")
    served = Served("--model", str(models("tiny64")), "--reranker", str(ranker), "--threads", "1")
    try:
        documents = [f"{i} " + "word " * 800 for i in range(64)]
        clients = []
        for _ in range(4):
            connection = served.connect()
            connection.request(
                "POST", "/v1/rerank", json.dumps({"query": "q", "documents": documents})
            )
            clients.append(connection)
        pending = f'qwen3_embed_engine_pending_tokens{{model="{ranker.name}"}}'

        def pending_tokens() -> float:
            page = served.ask("/metrics")[1].decode()
            line = next(line for line in page.splitlines() if line.startswith(pending))
            return float(line.split()[-1])

        deadline = time.monotonic() + 60
        while pending_tokens() < 4 * 50_000:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        for connection in clients:
            connection.close()
        begin = time.monotonic()
        while pending_tokens() > 0:
            assert time.monotonic() < begin + 10
            time.sleep(0.05)
        assert b"dropped_requests_total 4.0" in served.ask("/metrics")[1]
        status, answer, _ = served.ask("/v1/rerank", {"query": "q", "documents": ["a"]})
        assert status == 200
        assert len(answer["results"]) == 1
    finally:
        served.stop()
