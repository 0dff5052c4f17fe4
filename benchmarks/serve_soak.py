"""A long run of the server: every vector compared, clients that leave, the process killed twice.

    python -m benchmarks.serve_soak --model mini --requests 100000 --csv

Each client asks for 1 to 3 texts at a time, as fast as it is answered. Of the requests, 1 in 100 is
left: the client closes its connection at once, or after half of the request, and asks again on a
new one. After a third and after two thirds of all requests the server gets SIGKILL and is started
again. A request whose connection breaks is asked again, so that none may be lost. Memory is what is
anonymous, sampled while requests run.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import random
import time
from pathlib import Path
from typing import Any

from benchmarks.memory import resident
from benchmarks.record import model_folder, parser_of, record
from benchmarks.serve import text
from qwen3_embed import Embedder
from tests.support.served import Served

N_TEXTS = 2000
LEAVING = 0.01
MEMORY_EVERY = 2000  # requests
HEAD = b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"


class Soak:
    """The clients of one run.

    Attributes
    ----------
    n_done, n_wrong, n_again, n_left : int
        Requests answered; with other vectors than expected; asked again because a connection
        broke; left by their client.
    """

    def __init__(self, folder: Path, expected: list[str], n_requests: int, options: list[str]):
        self._name = folder.name
        self._expected = expected
        self._n_requests = n_requests
        self._options = ["--model", str(folder), "--log-level", "warning", *options]
        self._served = Served(*self._options)
        self._n_begun = self.n_done = self.n_wrong = self.n_again = self.n_left = 0
        self.mb_by_life: list[list[float]] = [[]]

    async def run(self, n_clients: int) -> None:
        clients = [asyncio.create_task(self._client(i)) for i in range(n_clients)]
        for part in (1, 2):
            while self.n_done < self._n_requests * part // 3:
                await asyncio.sleep(0.05)
            self._served.process.kill()
            self._served.process.wait()
            self.mb_by_life.append([])
            port = str(self._served.port)
            self._served = await asyncio.to_thread(Served, *self._options, "--port", port)
        await asyncio.gather(*clients)
        self._served.stop()

    async def _client(self, seed: int) -> None:
        chosen = random.Random(seed)
        connection = None
        while self._n_begun < self._n_requests:
            self._n_begun += 1
            texts = [chosen.randrange(N_TEXTS) for _ in range(chosen.randint(1, 3))]
            while True:
                try:
                    if connection is None:
                        connection = await asyncio.open_connection("127.0.0.1", self._served.port)
                    if await self._ask(*connection, texts, chosen.random() < LEAVING):
                        break
                    self.n_left += 1
                except (OSError, asyncio.IncompleteReadError):
                    self.n_again += 1
                    await asyncio.sleep(0.05)
                if connection is not None:
                    connection[1].close()
                connection = None
        if connection is not None:
            connection[1].close()

    async def _ask(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        texts: list[int],
        leaves: bool,
    ) -> bool:
        """Asks one request; True if it was answered, False if it was left."""
        body: dict[str, Any] = {"input": [text(i) for i in texts], "model": self._name}
        content = json.dumps(body | {"encoding_format": "base64"}).encode()
        request = HEAD % len(content) + content
        if leaves:
            writer.write(request if len(texts) > 1 else request[: len(request) // 2])
            await writer.drain()
            return False
        writer.write(request)
        header = await reader.readuntil(b"\r\n\r\n")
        length = int(header.lower().partition(b"content-length: ")[2].split()[0])
        answer = json.loads(await reader.readexactly(length))
        self.n_done += 1
        if self.n_done % MEMORY_EVERY == 0:
            mb = resident(self._served.process.pid)["RssAnon"] / 1e3
            self.mb_by_life[-1].append(round(mb, 1))
        found = [each["embedding"] for each in answer.get("data", ())]
        self.n_wrong += found != [self._expected[i] for i in texts]
        return True


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    folder = model_folder(arguments)
    with Embedder(folder, device=arguments.device) as model:
        rows = model.encode([text(i) for i in range(N_TEXTS)])
    expected = [base64.b64encode(row).decode() for row in rows]
    soak = Soak(folder, expected, arguments.requests, ["--device", arguments.device])
    begin = time.perf_counter()
    asyncio.run(soak.run(arguments.clients))
    taken_s = time.perf_counter() - begin
    return {
        "clients": arguments.clients,
        "requests": soak.n_done,
        "lost": arguments.requests - soak.n_done,
        "wrong": soak.n_wrong,
        "asked_again": soak.n_again,
        "left": soak.n_left,
        "kills": len(soak.mb_by_life) - 1,
        "requests_per_s": round(soak.n_done / taken_s, 1),
        "mb_by_life": "; ".join(
            f"{life[0]} to {life[-1]}, at most {max(life)}" for life in soak.mb_by_life if life
        ),
    }


def main() -> None:
    parser = parser_of(__doc__, shape="tiny64")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=100_000)
    record("serve_soak", parser.parse_args(), [measure(parser.parse_args())])


if __name__ == "__main__":
    main()
