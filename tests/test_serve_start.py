"""The first lines of `qwen3-embed serve`: for people on a terminal, as JSON for programs."""

from __future__ import annotations

import html
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvloop")
pytest.importorskip("msgspec")
from qwen3_embed.cli import main
from tests.support.served import Served

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")


class OnTerminal:
    """`qwen3-embed serve`, whose standard error is a terminal; its lines so far are in `text`."""

    def __init__(self, *arguments: str) -> None:
        main, child = os.openpty()
        command = [sys.executable, "-m", "qwen3_embed", "serve", "--port", "0", *arguments]
        self.process = subprocess.Popen(command, stderr=child)
        os.close(child)
        self._main = main
        self.text = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                found = os.read(self._main, 4096)
            except OSError:  # the terminal's other end is closed
                return
            self.text += found.decode().replace("\r\n", "\n")

    def wait_for(self, pattern: str) -> re.Match[str]:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if found := re.search(pattern, self.text, re.MULTILINE):
                return found
            time.sleep(0.02)
        raise AssertionError(f"{pattern} is not in {self.text}")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            assert self.process.wait(60) == 0
        finally:
            self.process.kill()
            self._reader.join()
            os.close(self._main)


def answer_of(command: str) -> Any:
    """The answer to a printed command, run by a shell."""
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@needs_curl
def test_on_a_terminal(tmp_path: Path) -> None:
    """Plain lines, and a command that works although a key is needed, which is not printed."""
    keys = tmp_path / "our keys"
    keys.write_text("# ours\n\n  a-secret-of-enough-length \nanother-key-of-length\n")
    served = OnTerminal("--model", "mini", "--api-key-file", str(keys))
    try:
        command = served.wait_for(r"^try: (curl .+)$")[1]
        first = served.text.splitlines()[0]
        assert re.fullmatch(r"serving mini, mini-query at http://127\.0\.0\.1:\d+", first)
        answer = answer_of(command)
        assert answer["model"] == "mini"
        assert len(answer["data"][0]["embedding"]) > 0
        served.wait_for(r"^\d\d:\d\d:\d\d 200 /v1/embeddings [\d.]+ ms, mini, 1 texts, \d+ tokens$")
        assert "secret" not in served.text
    finally:
        served.stop()
    assert served.text.splitlines()[-1] == "drained"


@needs_curl
def test_as_json() -> None:
    served = Served("--model", "mini", "--alias", "it's <b>=mini")
    try:
        deadline = time.monotonic() + 60
        while len(served.log) < 2 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert [line["level"] for line in served.log] == ["warning", "warning"]
        command = str(served.log[1]["event"]).removeprefix("try: ")
        assert answer_of(command)["model"] == "mini"
        page = served.ask("/")[1].decode()
        assert html.escape(command) in page
        assert "it&#x27;s &lt;b&gt;" in page
        body = {"input": "a", "dimensions": 4}
        assert served.ask("/v1/embeddings", body)[0] == 200
        assert any(line["event"].startswith("dim=4 is below 32") for line in served.log)
    finally:
        served.stop()


def test_the_format_can_be_chosen() -> None:
    served = Served("--model", "mini", "--log-format", "plain")
    served.stop()
    assert not any("level" in line for line in served.log)
    on_terminal = OnTerminal("--model", "mini", "--log-format", "json")
    try:
        assert json.loads(on_terminal.wait_for(r"^\{.*serving.*\}$")[0])["level"] == "warning"
    finally:
        on_terminal.stop()


def test_the_page_has_a_place_for_the_key(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("a-secret-of-enough-length\n")
    served = Served("--model", "mini", "--api-key-file", str(keys))
    try:
        status, page, _ = served.ask("/", authorization="Bearer a-secret-of-enough-length")
        assert status == 200
        assert b"authorization: Bearer KEY&quot;" in page
        assert b"secret" not in page
    finally:
        served.stop()


def test_mistakes_name_their_option(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = str(tmp_path / "keys")
    assert main(["serve", "--model", "mini", "--api-key-file", missing]) == 1
    assert f"--api-key-file {missing}: No such file" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "--model", "mini", "--port", port]) == 1
    assert f"--port {port}: Address already in use" in capsys.readouterr().err
