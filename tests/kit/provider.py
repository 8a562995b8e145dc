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
    `answered` counts the answers by request. `batched` are the requests of batches, by their custom id, as they are
    answered: after `looks` looks, and only `expires_after` of the next batch, which then expires. `before_call` gets
    the method and the path of each call about files and batches.
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
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.batched: list[str] = []
        self.looks = 0
        self.expires_after: int | None = None
        self.refuses_batches: str | None = None
        self.before_call: Callable[[str], None] = lambda call: None
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    @property
    def asked(self) -> list[str]:
        """Return the last message of each request."""
        return [body["messages"][-1]["content"] for body in self.bodies]

    def handle_error(self, *_: Any) -> None: ...

    def count(self, body: Mapping[str, Any], content: Mapping[str, Any]) -> None:
        """Count an answer, and what it costs."""
        with self.lock:
            asked, usage = json.dumps(body, sort_keys=True), content["usage"]
            self.costs[asked] = (usage["prompt_tokens"], usage["completion_tokens"])
            self.answered[asked] = self.answered.get(asked, 0) + 1

    def create(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Create a batch of the requests in a file."""
        id = f"batch_{len(self.batches)}"
        total = len(self.files[asked["input_file_id"]].splitlines())
        self.batches[id] = {
            "id": id,
            "object": "batch",
            "status": "validating",
            "request_counts": {"total": total, "completed": 0, "failed": 0},
            "looks": self.looks,
            "created_at": CREATED,
            **asked,
        }
        return self.batches[id]

    def look(self, id: str) -> dict[str, Any]:
        """Return a batch, and end it after enough looks."""
        batch = self.batches[id]
        if batch["status"] not in ("validating", "in_progress"):
            return batch
        if self.refuses_batches:
            return batch | {
                "status": "failed",
                "errors": {"data": [{"message": self.refuses_batches, "line": 1}]},
            }
        batch["looks"] -= 1
        if batch["looks"] >= 0:
            return batch | {"status": "in_progress"}
        rows = [json.loads(line) for line in self.files[batch["input_file_id"]].splitlines()]
        most, self.expires_after = self.expires_after, None
        answers, errors = [], []
        for row in rows[:most]:
            self.batched.append(row["custom_id"])
            line = Line(self, row["body"])
            answered = {"custom_id": row["custom_id"], "error": None, "response": line.response}
            (answers if line.response["status_code"] == 200 else errors).append(answered)
        expired = {"code": "batch_expired", "message": "This request could not be executed in time."}
        errors += [
            {"custom_id": row["custom_id"], "error": expired, "response": None}
            for row in rows[len(rows[:most]) :]
        ]
        for name, lines in (("output_file_id", answers), ("error_file_id", errors)):
            if lines:
                batch[name] = f"file-{len(self.files)}-{name}-{id}"
                self.files[batch[name]] = "\n".join(map(json.dumps, lines)).encode()
        batch["status"] = "completed" if most is None else "expired"
        batch["request_counts"] = {"total": len(rows), "completed": len(answers), "failed": len(errors)}
        return batch


_TIMES = {"created_at": CREATED, "bytes": 1, "status": "processed", "completion_window": "24h"}


def uploaded(form: bytes) -> bytes:
    """Return the content of the file in a form."""
    boundary, _, _ = form.partition(b"\r\n")
    part = next(one for one in form.split(boundary) if b"filename=" in one.partition(b"\r\n\r\n")[0])
    return part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n")


class Line:
    """Answers a line of a batch as a handler answers a request."""

    def __init__(self, server: Provider, body: dict[str, Any]) -> None:
        self.server, self.body = server, body
        shown = json.dumps(body["messages"])
        poison = next((one for word, one in server.poisons.items() if word in shown), None)
        if poison:
            poison(self)  # type: ignore[arg-type]
        else:
            content = completion({"role": "assistant", "content": server.says(body)}, body, server)
            server.count(body, content)
            self.answer(200, content)

    def answer(self, status: int, content: Any, headers: Any = None) -> None:
        self.response = {"status_code": status, "request_id": "r", "body": content}


class Handler(BaseHTTPRequestHandler):
    server: Provider
    protocol_version = "HTTP/1.1"
    body: dict[str, Any]

    def log_message(self, *_: Any) -> None: ...

    def answer(self, status: int, content: Any, headers: Mapping[str, str] | None = None) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        server = self.server
        if self.path.startswith(("/v1/files", "/v1/batches")):
            self.manage(data)
            return
        self.body = body = json.loads(data)
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

    def do_GET(self) -> None:
        self.manage(b"")

    do_DELETE = do_GET

    def manage(self, data: bytes) -> None:
        """Answer a call about files and batches."""
        server, call = self.server, f"{self.command} {self.path.partition('?')[0].removeprefix('/v1')}"
        server.before_call(call)
        if server.script:
            server.script.pop(0)(self)
            return
        match call.split("/"):
            case ["POST ", "files"]:
                id = f"file-{len(server.files)}"
                server.files[id] = uploaded(data)
                self.answer(200, {"id": id, "object": "file", "purpose": "batch", "filename": "x", **_TIMES})
            case ["GET ", "files", id, "content"]:
                self.answer(200, server.files[id])
            case ["DELETE ", "files", id]:
                del server.files[id]
                self.answer(200, {"id": id, "object": "file", "deleted": True})
            case ["POST ", "batches"]:
                self.answer(200, server.create(json.loads(data)))
            case ["GET ", "batches"]:
                self.answer(200, {"object": "list", "data": [*server.batches.values()], "has_more": False})
            case ["GET ", "batches", id] if id in server.batches:
                self.answer(200, server.look(id))
            case _:
                self.answer(404, {"error": {"message": f"no such thing: {call}"}})

    def complete(self, body: Mapping[str, Any]) -> None:
        message = {"role": "assistant", "content": self.server.says(body)}
        content = completion(message, body, self.server)
        self.answer(200, content)
        self.server.count(body, content)


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
        handler.answer(200, completion(given, handler.body, handler.server, finish_reason))

    return answer


def no_choices(handler: Handler) -> None:
    handler.answer(200, {"choices": []})
