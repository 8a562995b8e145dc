"""A server on this machine that answers as the Hugging Face Hub does for data sets in a folder."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path
    asked: list[str]

    def log_message(self, *_: Any) -> None:
        pass

    def _send(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _json(self, value: Any, status: int = 200, **headers: str) -> None:
        self._send(json.dumps(value).encode(), status, Content_Type="application/json", **headers)

    def _missing(self, code: str) -> None:
        self._json({"error": code}, 404, X_Error_Code=code)

    def _entry(self, folder: Path, path: Path) -> dict[str, Any]:
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            return {"type": "directory", "oid": "0" * 40, "size": 0, "path": name}
        return {"type": "file", "oid": _etag(path), "size": path.stat().st_size, "path": name}

    def _answer(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        address = urlsplit(self.path)
        path = unquote(address.path)
        self.asked.append(f"{self.command} {self.path}")
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "datasets"] and len(parts) >= 4:
            folder, rest = self.root / parts[2] / parts[3], parts[4:]
            if not folder.is_dir():
                return self._missing("RepoNotFound")
            files = sorted(one for one in folder.rglob("*") if one.is_file())
            if rest[:1] in ([], ["revision"]):
                if rest and rest[1] not in (COMMIT, "main"):
                    return self._missing("RevisionNotFound")
                names = [{"rfilename": one.relative_to(folder).as_posix()} for one in files]
                name = "/".join(parts[2:4])
                return self._json(
                    {
                        "_id": "1",
                        "id": name,
                        "sha": COMMIT,
                        "private": False,
                        "gated": False,
                        "disabled": False,
                        "tags": [],
                        "downloads": 0,
                        "likes": 0,
                        "siblings": names,
                    }
                )
            if rest[0] == "tree":
                below = folder.joinpath(*rest[2:])
                if not below.is_dir():
                    return self._missing("EntryNotFound")
                deep = parse_qs(address.query).get("recursive", ["false"])[0].lower() in ("true", "1")
                found = sorted(below.rglob("*") if deep else below.iterdir())
                return self._json([self._entry(folder, one) for one in found])
            if rest[0] == "paths-info":
                given = parse_qs(body.decode()) if not body.startswith(b"{") else json.loads(body)
                wanted = given["paths"]
                named = [folder / one for one in ([wanted] if isinstance(wanted, str) else wanted)]
                return self._json([self._entry(folder, one) for one in named if one.exists()])
        if parts[0] == "datasets" and len(parts) > 4 and parts[3] == "resolve":
            file = self.root.joinpath(parts[1], parts[2], *parts[5:])
            if not file.is_file():
                return self._missing("EntryNotFound")
            headers = {"ETag": f'"{_etag(file)}"', "X_Repo_Commit": COMMIT, "Accept_Ranges": "bytes"}
            data = file.read_bytes()
            if given := self.headers.get("Range"):
                first, _, last = given.removeprefix("bytes=").partition("-")
                end = int(last) + 1 if last else len(data)
                headers["Content_Range"] = f"bytes {first}-{min(end, len(data)) - 1}/{len(data)}"
                return self._send(data[int(first) : end], 206, **headers)
            return self._send(data, **headers)
        return self._missing("EntryNotFound")

    do_GET = do_HEAD = do_POST = _answer


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@contextmanager
def hub_of(root: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve `root/<owner>/<name>/…` as data sets at `COMMIT`: the address, and the requests that came."""
    asked: list[str] = []
    handler = type("Handler", (_Handler,), {"root": root, "asked": asked})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
