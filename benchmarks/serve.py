"""The server under load: requests per second beside the engine alone, its CPU, p99, memory.

    python -m benchmarks.serve --model mini --requests 4000 --rival 400 --csv

Every vector is compared. Rounds of the server, of the engine alone and of the rival (--rival
requests in all) take turns, so that a neighbour disturbs them alike.
`cpu_ms` is the processor time of a request in the server's process outside the engine's threads,
less that of tokenising its texts alone; `cpu_beyond_direct_ms` is that of the whole process less
that of a direct call in large batches, which packs better. p99 and memory are shown by
round too.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import resource
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.memory import resident
from benchmarks.record import model_folder, parser_of, print_table, record
from qwen3_embed import Embedder
from tests.support.served import Served

N_TEXTS = 4000
_ENGINE_THREADS = ("qe forward", "qe cpu")
_HEAD = (
    b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n"
)


def text(i: int) -> str:
    return f"note {i}: what {i * 7919 % 1000003:x} says of the {i % 97}th"


def cpu_s(pid: int) -> tuple[float, float]:
    """Seconds of a process's threads so far: all of them, and those that aren't the engine's."""
    total = others = 0.0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        seconds = int((thread / "schedstat").read_text().split()[0]) / 1e9
        total += seconds
        if (thread / "comm").read_text().strip() not in _ENGINE_THREADS:
            others += seconds
    return total, others


def tokenising_s(model: Embedder, texts: list[str], n_texts: int) -> float:
    """Processor seconds that tokenising `n_texts` at a time takes for each such request."""
    begin = time.process_time()
    for start in range(0, len(texts), n_texts):
        model.tokenizer.encode(texts[start : start + n_texts])
    return (time.process_time() - begin) * n_texts / len(texts)


def p99_ms(taken_s: list[float]) -> float:
    return round(sorted(taken_s)[len(taken_s) * 99 // 100] * 1000, 1)


class Load:
    """Clients that each ask again as soon as they were answered."""

    def __init__(self, port: int, name: str, expected: list[str] | None, per_request: int) -> None:
        self._port = port
        self._name = name
        self._expected = expected
        self._per_request = per_request
        self._next = 0
        self.taken_s: list[float] = []
        self.n_wrong = 0

    async def run(self, n_clients: int, n_requests: int) -> float:
        last = self._next + n_requests
        begin = time.perf_counter()
        await asyncio.gather(*[self._client(last) for _ in range(n_clients)])
        return time.perf_counter() - begin

    async def _client(self, last: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        while self._next < last:
            first = self._next * self._per_request
            self._next += 1
            chosen = [(first + i) % N_TEXTS for i in range(self._per_request)]
            body: dict[str, Any] = {"input": [text(i) for i in chosen], "model": self._name}
            content = json.dumps(body | {"encoding_format": "base64"}).encode()
            begin = time.perf_counter()
            writer.write(_HEAD % len(content) + content)
            header = await reader.readuntil(b"\r\n\r\n")
            length = int(header.lower().partition(b"content-length: ")[2].split()[0])
            answer = json.loads(await reader.readexactly(length))
            self.taken_s.append(time.perf_counter() - begin)
            found = [each["embedding"] for each in answer["data"]]
            if self._expected is not None:
                self.n_wrong += found != [self._expected[i] for i in chosen]
        writer.close()


class Rival:
    """rival_server.py in a process of its own."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        script = Path(__file__).with_name("rival_server.py")
        self._process = subprocess.Popen([sys.executable, str(script), str(folder), str(self.port)])
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except ConnectionRefusedError:
                assert self._process.poll() is None
                time.sleep(0.2)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    folder = model_folder(arguments)
    texts = [text(i) for i in range(N_TEXTS)]
    per_round = arguments.requests // arguments.rounds
    rival_per_round = arguments.rival // arguments.rounds
    direct_s = direct_cpu_s = served_s = served_cpu_s = others_cpu_s = rival_s = 0.0
    by_round: list[dict[str, Any]] = []
    with Embedder(folder, device="cpu") as model:
        expected = [base64.b64encode(row).decode() for row in model.encode(texts)]
        tokenising = tokenising_s(model, texts, arguments.texts)
        served = Served("--model", str(folder), "--log-level", "warning", "--device", "cpu")
        pid = served.process.pid
        load = Load(served.port, folder.name, expected, arguments.texts)
        asyncio.run(load.run(arguments.clients, per_round // 4))  # warm
        load.taken_s.clear()
        rival = Rival(folder) if arguments.rival else None
        if rival:
            rival_load = Load(rival.port, folder.name, None, arguments.texts)
            asyncio.run(rival_load.run(arguments.clients, rival_per_round))  # warm
        first_mb = resident(pid)["RssAnon"] / 1e3
        for _ in range(arguments.rounds):
            before = cpu_s(pid)
            n_before = len(load.taken_s)
            served_s += asyncio.run(load.run(arguments.clients, per_round))
            after = cpu_s(pid)
            served_cpu_s += after[0] - before[0]
            others_cpu_s += after[1] - before[1]
            anonymous_mb = round(resident(pid)["RssAnon"] / 1e3, 1)
            by_round.append({"p99_ms": p99_ms(load.taken_s[n_before:]), "mb": anonymous_mb})
            used = resource.getrusage(resource.RUSAGE_SELF)
            begin = time.perf_counter()
            for start in range(0, per_round * arguments.texts, N_TEXTS):
                model.encode(texts[: min(N_TEXTS, per_round * arguments.texts - start)])
            direct_s += time.perf_counter() - begin
            now = resource.getrusage(resource.RUSAGE_SELF)
            direct_cpu_s += now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
            if rival:
                rival_s += asyncio.run(rival_load.run(arguments.clients, rival_per_round))
        served.stop()
        if rival:
            rival.stop()
    print_table(by_round)
    n_requests = per_round * arguments.rounds
    per_s = n_requests / served_s
    rival_per_s = rival_per_round * arguments.rounds / rival_s if rival else None
    return {
        "clients": arguments.clients,
        "texts": arguments.texts,
        "requests": n_requests,
        "wrong": load.n_wrong,
        "requests_per_s": round(per_s, 1),
        "of_direct": round(direct_s / served_s, 3),
        "cpu_ms": round((others_cpu_s / n_requests - tokenising) * 1000, 3),
        "cpu_beyond_direct_ms": round((served_cpu_s - direct_cpu_s) / n_requests * 1000, 3),
        "p50_ms": round(sorted(load.taken_s)[n_requests // 2] * 1000, 1),
        "p99_ms": p99_ms(load.taken_s),
        "p99_ms_by_round": " ".join(str(each["p99_ms"]) for each in by_round),
        "first_mb": round(first_mb, 1),
        "mb_by_round": " ".join(str(each["mb"]) for each in by_round),
        "rival_requests_per_s": round(rival_per_s, 1) if rival_per_s else "",
        "of_rival": round(per_s / rival_per_s, 2) if rival_per_s else "",
    }


def main() -> None:
    parser = parser_of(__doc__, shape="tiny64")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--texts", type=int, default=8, help="of a request")
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--rival", type=int, default=0, help="requests to rival_server.py")
    record("serve", parser.parse_args(), [measure(parser.parse_args())])


if __name__ == "__main__":
    main()
