"""Opens every page of the built site in Chromium, as a desktop and a phone show it.

    python -m tests.look_at_site                    after `make docs`; exit status 1 on a fault
    python -m tests.look_at_site --pictures DIR     and writes a picture of each page

A fault is a page that scrolls sideways, an error in the console, or a request to another host.
Chromium is spoken to over a pipe, in the DevTools protocol; it must be installed.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "build" / "site"
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
SCHEMES = {"light": "default", "dark": "slate"}  # and their names in the theme
# Elements that may scroll by themselves (code, tables) do not make the page wider.
TOO_WIDE = """(() => {
  const page = document.documentElement, wide = page.scrollWidth - page.clientWidth
  if (wide <= 0) return ""
  const found = [...document.querySelectorAll("body *")].filter(
    each => each.getBoundingClientRect().right > page.clientWidth + 1)
  return wide + " px: " + found.slice(0, 3).map(
    each => each.tagName + "." + each.className + " " + each.textContent.slice(0, 40)).join("; ")
})()"""


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


class Browser:
    """Chromium without a window, and its one tab."""

    def __init__(self, profile: str) -> None:
        program = shutil.which("chromium") or shutil.which("google-chrome")
        if program is None:
            raise SystemExit("no chromium on PATH: apt-get install chromium")
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        flags += ["--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()

        def give() -> None:  # the protocol's file descriptors are 3 and 4
            kept = (os.dup(theirs_in), os.dup(theirs_out))
            os.dup2(kept[0], 3)
            os.dup2(kept[1], 4)

        self._process = subprocess.Popen(
            [program, *flags],
            preexec_fn=give,
            close_fds=False,
            stderr=subprocess.DEVNULL,
        )
        self._number, self._rest, self.events = 0, b"", list[dict[str, Any]]()
        targets = self.ask("Target.getTargets")["targetInfos"]
        target = next(each["targetId"] for each in targets if each["type"] == "page")
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session: str | None = session["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")

    _session: str | None = None

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            self._rest += os.read(self._in, 1 << 20)
        message, _, self._rest = self._rest.partition(b"\0")
        decoded: dict[str, Any] = json.loads(message)
        return decoded

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command; events that come meanwhile are kept."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._number:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, url: str) -> None:
        self.events.clear()
        self.ask("Page.navigate", url=url)
        while not any(each.get("method") == "Page.loadEventFired" for each in self.events):
            self.events.append(self._next())
        # What the page does at once after its load; requests of its search index included.
        wait = "new Promise(done => setTimeout(done, 150))"
        self.ask("Runtime.evaluate", expression=wait, awaitPromise=True)

    def value(self, expression: str) -> Any:
        return self.ask("Runtime.evaluate", expression=expression)["result"].get("value")

    def close(self) -> None:
        self._session = None
        self.ask("Browser.close")
        self._process.wait(timeout=30)


def faults_of(events: list[dict[str, Any]], address: str) -> list[str]:
    """Errors in the console, and requests to other hosts."""
    found = []
    for event in events:
        given = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                found.append(given["exceptionDetails"]["text"])
            case "Runtime.consoleAPICalled" if given["type"] in ("error", "assert"):
                found.append(str(given["args"]))
            case "Log.entryAdded" if given["entry"]["level"] == "error":
                found.append(f"{given['entry']['text']} {given['entry'].get('url', '')}")
            case "Network.requestWillBeSent":
                url = given["request"]["url"]
                if not url.startswith((address, "data:", "blob:")):
                    found.append(f"request to {url}")
    return found


def looked_at(
    address: str, pages: list[str], device: str, scheme: str, pictures: Path | None
) -> Iterator[tuple[str, str]]:
    """The faults of pages, in a browser of their own, because the site remembers its scheme."""
    width, height = WIDTHS[device]
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = Browser(profile)
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        browser.ask("Emulation.setDeviceMetricsOverride", mobile=device == "phone", **size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.ask("Emulation.setEmulatedMedia", features=[feature])
        for page in pages:
            browser.open(f"{address}/{page}")
            for fault in faults_of(browser.events, address):
                yield page, fault
            if wide := browser.value(TOO_WIDE):
                yield page, f"scrolls sideways by {wide}"
            if (found := browser.value("document.body.dataset.mdColorScheme")) != SCHEMES[scheme]:
                yield page, f"has the colours {found}"
            if pictures:
                pictures.mkdir(parents=True, exist_ok=True)
                shot = browser.ask("Page.captureScreenshot")["data"]
                name = f"{page[:-5].replace('/', '_')}_{device}_{scheme}.png"
                (pictures / name).write_bytes(base64.b64decode(shot))
        browser.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--pictures", type=Path, help="a folder for a picture of each page")
    parser.add_argument("--pages", nargs="*", help="only these, without .html")
    arguments = parser.parse_args()
    pages = sorted(path.relative_to(SITE).as_posix() for path in SITE.rglob("*.html"))
    pages = [page for page in pages if not arguments.pages or page[:-5] in arguments.pages]
    n_faults = 0
    with served(SITE) as address:
        for device, scheme in product(WIDTHS, SCHEMES):
            for page, fault in looked_at(address, pages, device, scheme, arguments.pictures):
                print(f"{page}, {device}, {scheme}: {fault}")
                n_faults += 1
    print(f"{len(pages)} pages at {len(WIDTHS)} widths, light and dark: {n_faults} faults")
    return int(n_faults > 0)


if __name__ == "__main__":
    sys.exit(main())
