"""A provider on this machine that answers chat completions, and misbehaves as asked."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from kit.homes import environment_of
from selfimprove_dagster.home.home import Home

CREATED = 1_790_000_000
"""The time of every answer, in seconds since 1970."""

Misbehaviour = Callable[["Handler"], None]


FINE = "It is fine."

KEY = "sk-planted-0815-4711"
"""The key in the variable PLANTED_KEY of `command`."""


def says(body: Mapping[str, Any]) -> str:
    """Name the first option where there are some, and say something else where there are none."""
    _, _, options = body["messages"][-1]["content"].partition("Reply with exactly one of the following")
    return options.splitlines()[1].removeprefix("- ") if options else FINE


class Provider(ThreadingHTTPServer):
    """Answers from `script` first, one misbehaviour per request, then by `says`, with a poison by the prompt's words.

    `poisons` maps a word to the misbehaviour for each prompt that contains it. `bodies` are all requests, and
    `answered` counts the answers by request.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script: list[Misbehaviour] = []
        self.poisons: dict[str, Misbehaviour] = {}
        self.says: Callable[[Mapping[str, Any]], str] = says
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[Message] = []
        self.times: list[float] = []
        self.answered: dict[str, int] = {}
        self.costs: dict[str, tuple[int, int]] = {}
        self.gives_logprobs = False
        self.refused_fields: set[str] = set()
        self.likely: list[tuple[str, float]] = []
        self.pause = 0.0
        self.before_answer: Callable[[int], None] = lambda number: None
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def asked(self) -> list[str]:
        """Return the last message of each request."""
        return [body["messages"][-1]["content"] for body in self.bodies]

    def handle_error(self, *_: Any) -> None: ...


class Handler(BaseHTTPRequestHandler):
    server: Provider
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None: ...

    def answer(self, status: int, content: Any, headers: Mapping[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server = self.server
        with server.lock:
            server.bodies.append(body)
            server.headers.append(self.headers)
            server.times.append(time.monotonic())
            misbehave = server.script.pop(0) if server.script else None
            number = len(server.bodies)
        time.sleep(server.pause)
        server.before_answer(number)
        shown = json.dumps(body["messages"])
        poison = next((one for word, one in server.poisons.items() if word in shown), None)
        if misbehave or poison:
            (misbehave or poison)(self)  # type: ignore[misc]
        elif refused := server.refused_fields & body.keys():
            self.answer(400, {"error": {"message": f"unsupported field: {', '.join(sorted(refused))}"}})
        else:
            self.complete(body)

    def complete(self, body: Mapping[str, Any]) -> None:
        message = {"role": "assistant", "content": self.server.says(body)}
        content = completion(message, body, self.server)
        self.answer(200, content)
        with self.server.lock:
            asked = json.dumps(body, sort_keys=True)
            usage = content["usage"]
            self.server.costs[asked] = (usage["prompt_tokens"], usage["completion_tokens"])
            self.server.answered[asked] = self.server.answered.get(asked, 0) + 1


def completion(
    message: Mapping[str, Any], body: Mapping[str, Any], server: Provider, finish_reason: str = "stop"
) -> dict[str, Any]:
    """Return an answer in the form of the protocol; a token is a word."""
    tokens = re.findall(r"\s*\S+", message.get("content") or "")
    choice: dict[str, Any] = {"index": 0, "message": message, "finish_reason": finish_reason}
    if server.gives_logprobs and body.get("logprobs"):
        likely = [{"token": token, "logprob": logprob} for token, logprob in server.likely or [("yes", -0.1)]]
        choice["logprobs"] = {
            "content": [
                {"token": token, "logprob": -0.5, "top_logprobs": likely if "top_logprobs" in body else []}
                for token in tokens
            ]
        }
    prompt_tokens = sum(len(one["content"].split()) for one in body["messages"] if one.get("content"))
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": CREATED,
        "model": f"{body['model']}-2026-01-01",
        "system_fingerprint": "fp_1",
        "choices": [choice],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": len(tokens),
            "total_tokens": prompt_tokens + len(tokens),
        },
    }


@contextmanager
def running() -> Iterator[Provider]:
    """Run a provider in a thread."""
    with Provider() as provider:
        thread = threading.Thread(target=provider.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield provider
        finally:
            provider.shutdown()
            thread.join()


def command(home: Home, *arguments: str) -> subprocess.Popen[str]:
    """Start the command line in a process of its own."""
    environment = {
        **os.environ,
        **environment_of(home),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "PLANTED_KEY": KEY,
        "COLUMNS": "300",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "selfimprove_dagster.cli", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def said(home: Home, *arguments: str) -> str:
    """Run the command line, and return what it printed."""
    process = command(home, *arguments)
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def paid(provider: Provider, prices: Mapping[str, float]) -> float:
    """Return what the answers cost by the provider's own count."""
    total = 0.0
    for asked, costs in provider.costs.items():
        tokens_in, tokens_out = costs
        total += provider.answered[asked] * (tokens_in * prices["input"] + tokens_out * prices["output"])
    return total / 1e6


# ---- misbehaviours ----------------------------------------------------------------------------------


def status(code: int, message: str = "as asked", **headers: str) -> Misbehaviour:
    return lambda handler: handler.answer(code, {"error": {"message": message}}, headers)


def half_a_body(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [{"me')
    handler.close_connection = True


def nothing(handler: Handler) -> None:
    handler.close_connection = True


def message(finish_reason: str = "stop", **changes: Any) -> Misbehaviour:
    """Return an answer whose message is changed."""

    def answer(handler: Handler) -> None:
        given = {"role": "assistant", "content": FINE, **changes}
        body = handler.server.bodies[-1]
        handler.answer(200, completion(given, body, handler.server, finish_reason))

    return answer


def no_choices(handler: Handler) -> None:
    handler.answer(200, {"choices": []})
