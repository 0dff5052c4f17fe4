"""A local server that speaks the model hub's routes, for the real `huggingface_hub`.

It serves folders as repositories: model info, file tree, resolve with redirects of large files
to a store by hash, ranges, tokens and the hub's error codes. It can cut downloads short.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

LARGE_SUFFIXES = (".safetensors", ".bin", "tokenizer.json")


@dataclass
class Repository:
    """A folder on the hub, at one commit; `token` makes it private, `gated` closes it."""

    folder: Path
    commit: str = "c54f2e6e80b2d7b7de06f51cec4959f6b3e03418"
    token: str | None = None
    gated: bool = False

    def files(self) -> list[str]:
        paths = (p for p in sorted(self.folder.rglob("*")) if p.is_file())
        return [str(path.relative_to(self.folder)) for path in paths]

    def entry(self, name: str) -> dict[str, object]:
        """The file as the tree route lists it."""
        content = (self.folder / name).read_bytes()
        blob = b"blob %d\0" % len(content) + content
        entry: dict[str, object] = {
            "type": "file",
            "path": name,
            "size": len(content),
            "oid": hashlib.sha1(blob).hexdigest(),
        }
        if name.endswith(LARGE_SUFFIXES):
            sha256 = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 135}
        return entry


@dataclass
class Hub:
    """The server's repositories, and the requests that it got.

    Attributes
    ----------
    repositories : by "owner/name".
    valid_tokens : any other token is refused.
    n_cuts, cut_after_bytes : end so many downloads of large files after so many bytes.
    fails_with : answer everything with this status.
    requests : "GET /path", in order of arrival.
    downloads : names of the files whose content was sent, or begun.
    """

    repositories: dict[str, Repository] = field(default_factory=dict)
    valid_tokens: set[str] = field(default_factory=set)
    cut_after_bytes: int = 0
    n_cuts: int = 0
    fails_with: int = 0
    requests: list[str] = field(default_factory=list)
    downloads: list[str] = field(default_factory=list)
    url: str = ""


AnyHub = TypeVar("AnyHub", bound=Hub)


class HubHandler(BaseHTTPRequestHandler):
    """Answers one connection for the `hub`."""

    hub: Any
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._route()

    def do_GET(self) -> None:
        self._route()

    def _route(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.fails_with:
            self._refuse(self.hub.fails_with, "", "out of order")
            return
        if path.startswith("/store/"):
            self._store(path.removeprefix("/store/"))
            return
        parts = path.removeprefix("/api/models/").strip("/").split("/")
        repository = self._allowed("/".join(parts[:2]))
        if repository is None:
            return
        if path.startswith("/api/models/"):
            self._api(repository, parts[2:])
        elif len(parts) > 4 and parts[2] == "resolve":
            self._resolve(repository, parts[3], "/".join(parts[4:]))
        else:
            self._refuse(404, "", "no such route")

    def _allowed(self, name: str) -> Repository | None:
        """The repository, or None after the refusal that the hub would give."""
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.valid_tokens:
            self._refuse(401, "", "Invalid credentials in Authorization header")
            return None
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.token and repository.token != token):
            # Without a token, the hub does not say whether the repository exists.
            self._refuse(404 if token else 401, "RepoNotFound", "Repository not found")
            return None
        if repository.gated:
            self._refuse(403, "GatedRepo", "Access to this model is restricted")
            return None
        return repository

    def _api(self, repository: Repository, parts: list[str]) -> None:
        revision = parts[1] if len(parts) > 1 else "main"
        if revision not in ("main", repository.commit):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        elif parts and parts[0] == "tree":
            self._json([repository.entry(name) for name in repository.files()])
        else:
            siblings = [{"rfilename": name} for name in repository.files()]
            self._json(
                {
                    "id": "-",
                    "sha": repository.commit,
                    "siblings": siblings,
                    "private": False,
                    "tags": [],
                    "downloads": 0,
                    "likes": 0,
                }
            )

    def _resolve(self, repository: Repository, revision: str, name: str) -> None:
        if revision not in ("main", repository.commit):
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return
        if name not in repository.files():
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        entry = repository.entry(name)
        if "lfs" not in entry:
            self._note(name)
            self._content(
                (repository.folder / name).read_bytes(),
                {"ETag": f'"{entry["oid"]}"', "X-Repo-Commit": repository.commit},
            )
            return
        sha256 = entry["lfs"]["oid"]  # type: ignore[index]
        self.send_response(302)
        # Another host name, as the hub's store has: the client must not take its ETag from there.
        store = self.hub.url.replace("127.0.0.1", "localhost")
        self.send_header("Location", f"{store}/store/{sha256}")
        self.send_header("X-Repo-Commit", repository.commit)
        self.send_header("X-Linked-ETag", f'"{sha256}"')
        self.send_header("X-Linked-Size", str(entry["size"]))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _store(self, sha256: str) -> None:
        for repository in self.hub.repositories.values():
            for name in repository.files():
                content = (repository.folder / name).read_bytes()
                if hashlib.sha256(content).hexdigest() == sha256:
                    self._note(name)
                    self._content(content, {"ETag": f'"{sha256}"'}, may_cut=True)
                    return
        self._refuse(404, "", "no such object")

    def _note(self, name: str) -> None:
        if self.command == "GET":
            self.hub.downloads.append(name)

    def _content(self, content: bytes, headers: dict[str, str], may_cut: bool = False) -> None:
        total = len(content)
        wanted = self.headers.get("range", "")
        if wanted:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            content = content[int(first) : int(last) + 1 if last else None]
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{total - 1}/{total}")
        else:
            self.send_response(200)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if may_cut and self.hub.n_cuts > 0 and len(content) > self.hub.cut_after_bytes:
            self.hub.n_cuts -= 1
            self.wfile.write(content[: self.hub.cut_after_bytes])
            self.wfile.flush()
            self.close_connection = True
            return
        self.wfile.write(content)

    def _json(self, value: object) -> None:
        self._content(json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _refuse(self, status: int, code: str, message: str) -> None:
        body = json.dumps({"error": message}).encode()
        headers = {"X-Error-Code": code} if code else {}
        headers |= {"X-Error-Message": message, "Content-Type": "application/json"}
        self._send(status, headers, body)

    def _send(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def serve(hub: AnyHub, handler: type[HubHandler] = HubHandler) -> Iterator[AnyHub]:
    """Runs the server on a free local port; `hub.url` is where."""
    handler = type("Handler", (handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
