"""The lineage pages in Chromium."""

from __future__ import annotations

import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn

from selfimprove_dagster.explorer.pages import create_app
from selfimprove_dagster.explorer.server import listen
from selfimprove_dagster.home.home import Home

CHROMIUM = os.environ.get("SELFIMPROVE_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


PHONE = {"width": 360, "height": 740}


@contextmanager
def served(home: Home, token: str | None = None) -> Iterator[str]:
    """The address of the home's pages, on a real server in a thread."""
    listening: socket.socket = listen(0)
    app = create_app(home, "http://127.0.0.1:3000", token)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        deadline = time.monotonic() + 20
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.02)
        assert server.started
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()


@dataclass
class Visit:
    """A page with all that went wrong on it: console messages, errors, dialogs, requests to elsewhere."""

    page: Any
    address: str
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.on("console", lambda message: self.wrong.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.wrong.append(f"error: {error}"))
        self.page.on("dialog", self._dialog)
        self.page.on("request", self._request)

    def _dialog(self, dialog: Any) -> None:
        self.wrong.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.address + "/", "data:")):
            self.wrong.append(f"elsewhere: {request.url}")

    def go(self, path: str) -> None:
        self.page.goto(self.address + path)
        self.page.wait_for_load_state("networkidle")


@contextmanager
def visit(browser: Any, address: str, **options: Any) -> Iterator[Visit]:
    """A fresh page; fails at its end when anything went wrong on it."""
    context = browser.new_context(**options)
    try:
        visited = Visit(context.new_page(), address)
        yield visited
        assert visited.wrong == []
    finally:
        context.close()
