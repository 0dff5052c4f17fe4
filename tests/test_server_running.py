"""The server while it runs: many clients, ones that leave, a full queue, a kill, the drain."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ModelMaker
from tests.support.make_adapter import make_adapter

pytest.importorskip("uvloop")
pytest.importorskip("msgspec")
from qwen3_embed import Embedder
from tests.support.served import Served

SECRET = "the text that no log may hold"


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    served = Served("--model", str(folder))
    yield served
    served.stop()


class TestRunning:
    def test_many_clients_get_their_own(self, server: Served, model: Embedder) -> None:
        expected = model.encode([f"text {i}" for i in range(200)])
        failures: list[Any] = []

        def client(first: int) -> None:
            connection = server.connect()
            for i in range(first, 200, 16):
                content = json.dumps({"inputs": [f"text {i}", f"text {199 - i}"]})
                connection.request("POST", "/embed", content)
                found = np.array(json.loads(connection.getresponse().read()), np.float32)
                if not np.array_equal(found, expected[[i, 199 - i]]):
                    failures.append(i)
            connection.close()

        threads = [threading.Thread(target=client, args=(i,)) for i in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures

    def test_adapter_is_served(self, folder: Path, tmp_path: Path) -> None:
        adapter = make_adapter(tmp_path / "legal", folder)
        served = Served("--model", str(folder), "--adapter", str(adapter))
        try:
            status, content, _ = served.ask("/embed", {"inputs": ["a clause"]})
        finally:
            served.stop()
        assert status == 200
        with Embedder(folder, adapter=adapter) as changed:
            np.testing.assert_array_equal(
                np.array(content, np.float32), changed.encode(["a clause"])
            )

    def test_adapters_by_request(self, folder: Path, tmp_path: Path) -> None:
        """Requests name them; the model's own weights and every adapter are served at once."""
        names = ("legal", "medical")
        adapters = {
            name: make_adapter(tmp_path / name, folder, seed=i) for i, name in enumerate(names)
        }
        given = [f"--adapter={name}={path}" for name, path in adapters.items()]
        expected = {}
        for name in (None, *names):
            adapter = None if name is None else adapters[name]
            with Embedder(folder, adapter=adapter) as model:
                full = folder.name if name is None else f"{folder.name}:{name}"
                expected[full] = model.encode("a clause")
                expected[f"{full}-query"] = model.encode_query("a clause")
        served = Served("--model", str(folder), *given, "--idle-unload", "1")
        failures = []

        def ask(name: str) -> None:
            body = {"input": "a clause", "model": name}
            status, answer, _ = served.ask("/v1/embeddings", body)
            found = np.array(answer["data"][0]["embedding"], np.float32)
            if status != 200 or not np.array_equal(found, expected[name]):
                failures.append(name)

        def ask_all() -> None:
            threads = [threading.Thread(target=ask, args=(name,)) for name in [*expected] * 2]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert not failures

        try:
            models = [entry["id"] for entry in served.ask("/v1/models")[1]["data"]]
            assert set(expected) <= set(models)
            ask_all()
            assert served.ask("/v1/embeddings", {"input": "a", "model": "x:legal"})[0] == 404
            deadline = time.monotonic() + 30
            while not any("unloaded" in line["event"] for line in served.log):
                assert time.monotonic() < deadline
                time.sleep(0.05)
            assert served.ask("/health")[0] == 200
            counted = next(
                line
                for line in served.ask("/metrics")[1].decode().splitlines()
                if line.startswith("qwen3_embed_engine_texts_total")
            )
            assert float(counted.split()[-1]) == 2 * len(expected)
            ask_all()  # opens the model again, once, with its adapters
            assert sum(line["event"].startswith("loaded") for line in served.log) == 1
        finally:
            served.stop()

    def test_idle_model_that_cannot_be_opened_again(self, folder: Path, tmp_path: Path) -> None:
        """An error for the requests that need it, until its files are there again."""
        copied = shutil.copytree(folder, tmp_path / "copied")
        served = Served("--model", str(copied), "--idle-unload", "0.2")
        try:
            while not any("unloaded" in line["event"] for line in served.log):
                time.sleep(0.02)
            weights = copied / "model.safetensors"
            weights.rename(tmp_path / "aside")
            assert served.ask("/embed", {"inputs": "a"})[0] == 500
            (tmp_path / "aside").rename(weights)
            assert served.ask("/embed", {"inputs": "a"})[0] == 200
        finally:
            served.stop()

    def test_metrics_and_logs_hold_no_text(self, server: Served, folder: Path) -> None:
        body = {"input": [SECRET, SECRET], "model": folder.name}
        server.ask("/v1/embeddings", body, x_request_id="mine-1")
        server.ask("/v1/embeddings", {"input": SECRET, "model": SECRET})
        _, page, _ = server.ask("/metrics")
        text = page.decode()
        for name in ("requests_total", "request_seconds_bucket", "tokens_total", "queue_requests"):
            assert f"qwen3_embed_{name}" in text
        for name in ("batches_total", "texts_total", "busy_seconds_total", "pending_tokens"):
            assert f'qwen3_embed_engine_{name}{{model="{folder.name}"}}' in text
        assert SECRET not in text
        time.sleep(0.2)
        assert SECRET not in json.dumps(server.log)
        entry = next(line for line in server.log if line.get("request_id") == "mine-1")
        assert entry["status"] == 200
        assert entry["n_texts"] == 2
        assert entry["n_tokens"] > 2

    def test_client_that_leaves_is_dropped(self, models: ModelMaker) -> None:
        served = Served("--model", str(models("small")), "--threads", "1")
        try:
            content = json.dumps({"inputs": ["word " * 800] * 64}).encode()
            clients = []
            for _ in range(8):
                connection = served.connect()
                connection.request("POST", "/embed", content)
                clients.append(connection)
            time.sleep(0.5)
            for connection in clients:
                connection.close()
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                if b"dropped_requests_total 8.0" in served.ask("/metrics")[1]:
                    break
                time.sleep(0.1)
            else:
                raise AssertionError("not dropped")
            begin = time.monotonic()
            assert served.ask("/embed", {"inputs": "a"})[0] == 200
            assert time.monotonic() - begin < 10
        finally:
            served.stop()

    def test_queue_is_bounded(self, folder: Path) -> None:
        served = Served("--model", str(folder), "--max-queue", "2")
        try:
            content = json.dumps({"inputs": "a"}).encode()
            clients = []
            for _ in range(2):  # whose bodies are still to come
                connection = served.connect()
                connection.putrequest("POST", "/embed")
                connection.putheader("content-length", str(len(content)))
                connection.endheaders()
                clients.append(connection)
            time.sleep(0.3)
            status, answer, headers = served.ask("/embed", {"inputs": "a"})
            assert (status, answer["error_type"]) == (429, "Overloaded")
            assert headers["retry-after"] == "1"
            assert served.ask("/health")[0] == 200
            for connection in clients:
                connection.send(content)
                assert connection.getresponse().status == 200
            assert served.ask("/embed", {"inputs": "a"})[0] == 200
        finally:
            served.stop()

    def test_killed_and_restarted(self, folder: Path, model: Embedder, tmp_path: Path) -> None:
        """Clients that try again lose nothing, and the cache is whole."""
        arguments = ["--model", str(folder), "--cache", str(tmp_path / "cache.sqlite")]
        served = Served(*arguments)
        texts = [f"text {i}" for i in range(300)]
        found: dict[int, Any] = {}

        def client(first: int) -> None:
            for i in range(first, len(texts), 4):
                while True:
                    try:
                        connection = HTTPConnection("127.0.0.1", served.port, timeout=60)
                        connection.request("POST", "/embed", json.dumps({"inputs": texts[i]}))
                        found[i] = json.loads(connection.getresponse().read())[0]
                        break
                    except (OSError, HTTPException, ValueError):
                        time.sleep(0.05)

        threads = [threading.Thread(target=client, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        while len(found) < 100:
            time.sleep(0.001)
        served.process.kill()
        served.process.wait()
        assert len(found) < len(texts)
        served = Served(*arguments, "--port", str(served.port))
        for thread in threads:
            thread.join()
        rows = np.array([found[i] for i in range(len(texts))], np.float32)
        assert np.array_equal(rows, model.encode(texts))
        assert served.ask("/embed", {"inputs": texts})[0] == 200
        assert f'cached_texts_total{{model="{folder.name}"}}' in served.ask("/metrics")[1].decode()
        served.stop()
        database = sqlite3.connect(tmp_path / "cache.sqlite")
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert database.execute("SELECT count(*) FROM vectors").fetchone() == (len(texts),)

    def test_drain(self, models: ModelMaker) -> None:
        """SIGTERM: what was begun is answered, nothing new is let in, status 0."""
        served = Served("--model", str(models("small")), "--threads", "1")
        connection = served.connect()
        connection.request("POST", "/embed", json.dumps({"inputs": ["word " * 100] * 16}))
        time.sleep(0.3)
        served.process.terminate()
        time.sleep(0.3)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", served.port), timeout=5)
        response = connection.getresponse()
        assert response.status == 200
        assert len(json.loads(response.read())) == 16
        assert served.process.wait(30) == 0
