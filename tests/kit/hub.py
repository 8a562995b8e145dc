"""A Hugging Face hub on this machine: what `huggingface_hub` asks of one when it pushes a folder."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

GOOD_TOKEN = "hf_goodTokenThatIsWrittenNowhere"
LARGE = (".safetensors", ".parquet", ".png")
"""Files that go through LFS."""


@dataclass
class Repository:
    """Its files by path, and its commits, oldest first, each with the files of that time."""

    visibility: str
    files: dict[str, bytes] = field(default_factory=dict)
    commits: list[dict[str, bytes]] = field(default_factory=list)

    @property
    def head(self) -> str:
        return hashlib.sha1(f"commit {len(self.commits)}".encode()).hexdigest()


class Hub(ThreadingHTTPServer):
    """Holds repositories by `<kind>s/<owner>/<name>`, and uploaded objects by sha256.

    `before` is called with the moment (`create`, `preupload`, `upload`, `commit`) before its request has any effect,
    and `after` before it is answered; what it raises is that the connection ends without an answer.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, Repository] = {}
        self.objects: dict[str, bytes] = {}
        self.uploads: list[str] = []
        self.moments: list[str] = []
        self.before: Callable[[str], None] = lambda moment: None
        self.after: Callable[[str], None] = lambda moment: None
        self.readers = {"hf_readOnly"}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that was killed."""


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _answer(self, status: int, data: Any = None) -> None:
        body = json.dumps(data or {}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _may_not(self) -> bool:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token == GOOD_TOKEN:
            return False
        self._answer(403 if token in self.server.readers else 401, {"error": "no"})
        return True

    def _moment(self, name: str, act: Callable[[], Any]) -> Any:
        self.server.moments.append(name)
        self.server.before(name)
        found = act()
        self.server.after(name)
        return found

    def do_POST(self) -> None:
        body = self._body()
        path = self.path.split("?")[0]
        if path == "/api/validate-yaml":
            assert json.loads(body)["content"].startswith("---\n")
            self._answer(200, {"errors": [], "warnings": []})
        elif self._may_not():
            return
        elif path == "/api/repos/create":
            self._create(json.loads(body))
        elif found := re.fullmatch(r"/api/((?:model|dataset)s/[^/]+/[^/]+)/preupload/main", path):
            files = json.loads(body)["files"]
            here = self.server.repositories[found[1]].files
            modes = self._moment("preupload", lambda: [self._mode(one["path"], here) for one in files])
            self._answer(200, {"files": modes})
        elif path.endswith(".git/info/lfs/objects/batch"):
            self._answer(
                200, {"transfer": "basic", "objects": [*map(self._object, json.loads(body)["objects"])]}
            )
        elif found := re.fullmatch(r"/api/((?:model|dataset)s/[^/]+/[^/]+)/commit/main", path):
            lines = [json.loads(line) for line in body.splitlines()]
            repository = self.server.repositories[found[1]]
            self._moment("commit", lambda: self._commit(repository, lines))
            page = f"{self.server.url}/{found[1].removeprefix('models/')}/commit/{repository.head}"
            self._answer(200, {"commitUrl": page, "commitOid": repository.head})
        else:
            self._answer(404, {"error": path})

    def do_PUT(self) -> None:
        body, oid = self._body(), self.path.rsplit("/", 1)[-1]
        assert hashlib.sha256(body).hexdigest() == oid

        def keep() -> None:
            self.server.objects[oid] = body
            self.server.uploads.append(oid)

        self._moment("upload", keep)
        self._answer(200)

    def do_GET(self) -> None:
        if self._may_not():
            return
        found = re.match(r"/api/((?:model|dataset)s/([^/]+/[^/]+))", self.path)
        if found is None or found[1] not in self.server.repositories:
            self._answer(404, {"error": "Repository not found"})
        else:
            self._answer(200, {"id": found[2], "sha": self.server.repositories[found[1]].head})

    def _create(self, asked: Any) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        key = f"{asked['type']}s/{name}"

        def create() -> bool:
            known = key in self.server.repositories
            self.server.repositories.setdefault(key, Repository(asked.get("visibility", "public")))
            return known

        known = self._moment("create", create)
        self._answer(409 if known else 200, {"url": f"{self.server.url}/{name}", "error": "exists"})

    def _mode(self, path: str, here: dict[str, bytes]) -> dict[str, Any]:
        large = path.endswith(LARGE)
        oid = None
        if (data := here.get(path)) is not None:
            git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            oid = hashlib.sha256(data).hexdigest() if large else git
        return {"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False, "oid": oid}

    def _object(self, asked: Any) -> dict[str, Any]:
        if asked["oid"] in self.server.objects:
            return {**asked}
        return {**asked, "actions": {"upload": {"href": f"{self.server.url}/objects/{asked['oid']}"}}}

    def _commit(self, repository: Repository, lines: list[Any]) -> None:
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                repository.files[value["path"]] = self.server.objects[value["oid"]]
        repository.commits.append(dict(repository.files))


@contextmanager
def hub_here() -> Iterator[Hub]:
    """A hub without repositories, on a free port."""
    with Hub() as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
