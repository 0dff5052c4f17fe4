"""A local server that speaks ModelScope's routes, for the real `modelscope-hub`.

It serves folders as repositories: file listing with sizes and hashes, files with redirects of
large ones to a store, ranges, tokens, revisions. It can cut downloads short, and lie.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.hub_server import LARGE_SUFFIXES, Hub, HubHandler, Repository, serve

_MODELS = "/api/v1/models/"


@dataclass
class ModelScope(Hub):
    """The server's repositories, and the requests that it got.

    Attributes
    ----------
    revisions : besides "master", with the same files.
    lies : fields of the listing by file name, in place of the true ones.
    listing : a body in place of the true one.
    """

    revisions: tuple[str, ...] = ("v1",)
    lies: dict[str, dict[str, Any]] = field(default_factory=dict)
    listing: Any = None


class _Handler(HubHandler):
    hub: ModelScope

    def _route(self) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.hub.requests.append(f"{self.command} {path}")
        if self.hub.fails_with:
            self._fail(self.hub.fails_with, "out of order")
        elif path.startswith("/store/"):
            self._store(path.removeprefix("/store/"))
        elif path.startswith(_MODELS):
            self._model(path.removeprefix(_MODELS).split("/"), parse_qs(url.query))
        else:  # which region's store is near, for one
            self._json({"Code": 200, "Data": {}})

    def _model(self, parts: list[str], query: dict[str, list[str]]) -> None:
        token = self.headers.get("authorization", "").removeprefix("Bearer ")
        if token and token not in self.hub.valid_tokens:
            self._fail(401, "invalid token")
            return
        repository = self.hub.repositories.get("/".join(parts[:2]))
        if repository is None or (repository.token and repository.token != token):
            self._fail(404, "model does not exist")
        elif repository.gated:
            self._fail(403, "access denied")
        elif parts[2:] == ["revisions"]:
            branches, tags = ([{"Revision": name}] for name in ("master", *self.hub.revisions))
            data = {"RevisionMap": {"Branches": branches, "Tags": tags}}
            self._json({"Code": 200, "Data": data, "Success": True})
        elif query.get("Revision") not in [[name] for name in ("master", *self.hub.revisions)]:
            self._fail(404, "revision does not exist")
        elif parts[2:] == ["repo", "files"]:
            self._list(repository)
        else:
            self._file(repository, query["FilePath"][0])

    def _list(self, repository: Repository) -> None:
        files = [{"Path": "1_Pooling", "Name": "1_Pooling", "Type": "tree", "Size": 0}]
        for name in repository.files():
            content = (repository.folder / name).read_bytes()
            true = {
                "Path": name,
                "Name": name.rpartition("/")[2],
                "Type": "blob",
                "Size": len(content),
                "Sha256": hashlib.sha256(content).hexdigest(),
                "Revision": repository.commit,
                "IsLFS": name.endswith(LARGE_SUFFIXES),
            }
            files.append(true | self.hub.lies.get(name, {}))
        data = {"Files": files, "IsVisual": 0, "LatestCommitter": {"Id": "", "ShortId": "c54f2e6e"}}
        self._json(self.hub.listing or {"Code": 200, "Data": data, "Success": True})

    def _file(self, repository: Repository, name: str) -> None:
        if name not in repository.files():
            self._fail(404, "file does not exist")
            return
        content = (repository.folder / name).read_bytes()
        if not name.endswith(LARGE_SUFFIXES):
            self._note(name)
            self._content(content, {})
            return
        store = self.hub.url.replace("127.0.0.1", "localhost")
        self.send_response(302)
        self.send_header("Location", f"{store}/store/{hashlib.sha256(content).hexdigest()}")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _fail(self, status: int, message: str) -> None:
        body = json.dumps({"Code": status, "Message": message, "Success": False}).encode()
        self._send(status, {"Content-Type": "application/json"}, body)


def serve_modelscope(hub: ModelScope) -> AbstractContextManager[ModelScope]:
    """Runs the server on a free local port; `hub.url` is where."""
    return serve(hub, _Handler)
