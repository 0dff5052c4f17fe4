"""HTTP as the server speaks it: pipelines, bodies in pieces, old clients, and slow ones."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("uvloop")
pytest.importorskip("msgspec")
from qwen3_embed import Embedder
from tests.support.served import Served


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Served]:
    served = Served("--model", str(folder))
    yield served
    served.stop()


class Client:
    """A socket, and the responses that come out of it."""

    def __init__(self, server: Served) -> None:
        self.socket = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        self._received = b""

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.socket.sendall(part)
            time.sleep(0.01 if len(parts) > 1 else 0)

    def response(self, *, has_body: bool = True) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next response."""
        while b"\r\n\r\n" not in self._received:
            self._receive()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        length = int(headers.get("content-length", 0)) if has_body else 0
        while len(self._received) < length:
            self._receive()
        body, self._received = self._received[:length], self._received[length:]
        return int(first.split()[1]), headers, body

    def _receive(self) -> None:
        received = self.socket.recv(1 << 16)
        assert received, "the server has closed the connection"
        self._received += received

    def is_closed(self) -> bool:
        return not self._received and self.socket.recv(1) == b""


@pytest.fixture
def client(server: Served) -> Iterator[Client]:
    found = Client(server)
    yield found
    found.socket.close()


def post(text: str, *headers: str) -> bytes:
    body = json.dumps({"inputs": text}).encode()
    lines = ["POST /embed HTTP/1.1", "host: x", f"content-length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def vector(body: bytes) -> Any:
    return np.array(json.loads(body)[0], np.float32)


def test_pipelined_requests_are_answered_in_order(client: Client, model: Embedder) -> None:
    """The order holds for slow and for refused ones too."""
    texts = [f"text {i} " + "word " * (500 if i % 7 == 0 else 1) for i in range(40)]
    requests = [post(text) for text in texts]
    requests.insert(20, b"GET /nothing HTTP/1.1\r\nhost: x\r\n\r\n")
    requests.insert(10, b"POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nabcde")
    client.send(b"".join(requests))
    expected: list[Any] = list(model.encode(texts))
    expected.insert(20, 404)
    expected.insert(10, 404)
    for each in expected:
        status, _, body = client.response()
        if isinstance(each, int):
            assert status == each
        else:
            assert status == 200
            assert np.array_equal(vector(body), each)


def test_request_in_pieces(client: Client, model: Embedder) -> None:
    request = post("in pieces")
    client.send(*(request[i : i + 9] for i in range(0, len(request), 9)))
    assert np.array_equal(vector(client.response()[2]), model.encode("in pieces"))
    half = len(request) // 2
    client.send(request + request[:half], request[half:])
    for _ in range(2):
        assert np.array_equal(vector(client.response()[2]), model.encode("in pieces"))


def test_chunked_body(client: Client, model: Embedder) -> None:
    head = b"POST /embed HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    client.send(head, b'a\r\n{"inputs":\r\n', b'5\r\n"ab"}\r\n0\r\n\r\n')
    assert np.array_equal(vector(client.response()[2]), model.encode("ab"))
    client.send(head, b"zz\r\nno length")
    assert client.response()[0] == 400
    assert client.is_closed()


def test_body_after_continue(client: Client, model: Embedder) -> None:
    request = post("a", "expect: 100-continue")
    split = request.index(b"\r\n\r\n") + 4
    client.send(request[:split])
    assert client.response()[0] == 100
    client.send(request[split:])
    assert np.array_equal(vector(client.response()[2]), model.encode("a"))
    client.send(request[:split].replace(b"/embed", b"/nothing"))
    assert client.response()[0] == 404  # before the body, which is then read and dropped
    client.send(request[split:] + post("a"))
    assert np.array_equal(vector(client.response()[2]), model.encode("a"))


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /health HTTP/1.0\r\n\r\n",
        b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" + post("not read"),
    ],
)
def test_last_request_of_a_connection(client: Client, request_: bytes) -> None:
    client.send(request_)
    status, headers, _ = client.response()
    assert (status, headers["connection"]) == (200, "close")
    assert client.is_closed()


@pytest.mark.parametrize("n_pieces", [1, 3])
def test_offer_of_another_protocol(client: Client, model: Embedder, n_pieces: int) -> None:
    """As Java's client offers HTTP/2: declined, with and without a body."""
    offer = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c")
    get = "\r\n".join(["GET /health HTTP/1.1", "host: x", *offer]).encode() + b"\r\n\r\n"
    sent = post("a", *offer) + get + post("b", *offer) + post("c")
    size = len(sent) // n_pieces
    client.send(*(sent[i : i + size] for i in range(0, len(sent), size)))
    for text in ("a", None, "b", "c"):
        status, _, body = client.response()
        assert status == 200
        if text is not None:
            assert np.array_equal(vector(body), model.encode(text))


def test_a_thousand_offers_at_once(client: Client) -> None:
    get = b"GET /health HTTP/1.1\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n"
    client.send(get * 3000)
    for _ in range(3000):
        assert client.response()[0] == 200


def test_head(client: Client) -> None:
    client.send(b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n")
    length = client.response()[1]["content-length"]
    client.send(b"HEAD /v1/models HTTP/1.1\r\nhost: x\r\n\r\n")
    status, headers, _ = client.response(has_body=False)
    assert (status, headers["content-length"]) == (200, length)
    client.send(post("a"))
    assert client.response()[0] == 200


def test_rubbish_after_a_request(client: Client) -> None:
    """The request is answered, then the connection ends."""
    client.send(post("a") + b"\x16\x03\x01 this is not HTTP\r\n\r\n")
    assert client.response()[0] == 200
    assert client.is_closed()


def test_rubbish(client: Client) -> None:
    client.send(b"\x16\x03\x01 this is not HTTP\r\n\r\n")
    status, _, body = client.response()
    assert status == 400
    assert "not HTTP/1.1" in json.loads(body)["error"]["message"]
    assert client.is_closed()


def test_client_that_does_not_read(server: Served, client: Client) -> None:
    """It gets no more work done than its answers fit buffers, and others are served."""
    body = json.dumps({"inputs": [f"{i}" for i in range(60)]}).encode()
    request = b"POST /embed HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    before = server.resident_mb()
    client.socket.settimeout(2)
    n_sent = 0
    try:
        while n_sent < 4000:
            client.send(request)
            n_sent += 1
    except TimeoutError:
        pass
    assert server.resident_mb() < before + 50
    assert server.ask("/embed", {"inputs": "a"})[0] == 200
    page = server.ask("/metrics")[1].decode()
    waiting = next(line for line in page.splitlines() if line.startswith("qwen3_embed_queue_req"))
    client.socket.close()
    assert float(waiting.split()[-1]) >= 1
    deadline = time.monotonic() + 30
    while b"qwen3_embed_queue_requests 1.0" not in server.ask("/metrics")[1]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
