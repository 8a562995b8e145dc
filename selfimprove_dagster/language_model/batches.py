"""Send the requests of a shard as batches, which providers answer within a day and for less money.

A batch is a file of requests at `/files`, and a job at `/batches` that writes a file of answers and one of errors. The
journal knows a batch before it is created, so that a run that was killed waits for the same one: it is found by its
name even if the process died before the provider gave its id. Answers are stored in the journal like all others, and
the files are deleted at the provider then. Requests that a batch left without an answer come into the next one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.language_model.base import Generation
from selfimprove_dagster.language_model.paid import Journal, StoredBatch
from selfimprove_dagster.language_model.remote import (
    Asks,
    Request,
    TryAgain,
    Unanswered,
    Unavailable,
)

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types import Batch

_log = logging.getLogger(__name__)

NAME = "selfimprove"
"""The field of a batch's metadata with the name under which the journal knows it."""

BATCHED = "in_batch"
"""The field that an answer from a batch has in the journal."""

_MOST_BYTES = 190_000_000
"""Size of a file of requests; providers take 200 MB."""

_SECONDS_BETWEEN_LINES = 60.0

_ENDED = {"completed", "failed", "expired", "cancelled"}

_BUSY = "token_limit_exceeded"
"""The error of a batch for which too many tokens wait at the provider."""

T = TypeVar("T")

Means = Callable[[int, str], Exception]
"""Returns what an answer with a status that is not 200, and this text, means for its request."""


@dataclass(frozen=True)
class Batches:
    """How the requests of one model are sent in batches.

    `connect` opens the client, and `raised` returns what one of its errors means. `poll` are the seconds between two
    looks at a batch, and `most` is the number of requests in one. A request that has no answer after `attempts` batches
    has failed.
    """

    connect: Callable[[], AbstractAsyncContextManager[AsyncOpenAI]]
    raised: Callable[[Exception], Exception]
    means: Means
    endpoint: str
    shown: str
    poll: float = 30.0
    most: int = 50_000
    attempts: int = 8

    async def ask(
        self, requests: Mapping[str, Request], journal: Journal, asks: Asks
    ) -> dict[str, Unanswered]:
        """Store the answers to requests, by their keys, in the journal, and return those that failed.

        `asks` repeats calls that fail for a while. Raises ModelError if the provider refuses a batch, or answers none
        of the requests.
        """
        missing, failed, answered = dict(requests), dict[str, Unanswered](), 0
        reasons: dict[str, str] = {}
        async with self.connect() as client:
            call = _Calls(self, asks, client)
            for _ in range(self.attempts):
                for batch in [one async for one in self._batches(call, journal, missing)]:
                    ended = await self._ended(call, batch)
                    answers, errors = await self._lines(call, ended)
                    for key, answer in answers.items():
                        at = answer.get("created") or int(time.time())
                        journal.add(key, {**answer, "created": at, BATCHED: True})
                        answered += missing.pop(key, None) is not None
                    fatal: Exception | None = self._refusal(ended, len(answers))
                    for key in missing.keys() & errors.keys():
                        error = errors[key]
                        if isinstance(error, Unanswered):
                            failed[key] = error
                            del missing[key]
                        elif isinstance(error, TryAgain):
                            reasons[key] = str(error)
                        else:
                            fatal = fatal or error
                    journal.drop_batch(batch.name)
                    await call.delete_files(ended)
                    if fatal is not None and missing:
                        raise fatal
                if not missing:
                    return failed
        said = f"failed in {self.attempts} batches, finally with: "
        for key in missing:
            failed[key] = Unavailable(
                f"{self.shown} {said}{reasons.get(key, 'no answer')}",
                Generation.without_text("failed", f"{said}{reasons.get(key, 'no answer')}"),
            )
        if not answered:
            raise next(iter(failed.values()))
        return failed

    async def _batches(
        self, call: _Calls, journal: Journal, missing: Mapping[str, Request]
    ) -> AsyncIterator[StoredBatch]:
        """Yield the batches that earlier attempts created for some of the requests, and new ones for all others."""
        left, found = dict(missing), list[StoredBatch]()
        for known in journal.batches():
            if missing.keys().isdisjoint(known.keys):
                continue
            id = known.id or await call.id_of(known.name)
            if id is None:  # the process died before it was created
                journal.drop_batch(known.name)
                continue
            found.append(StoredBatch(known.name, known.keys, id))
            left = {key: request for key, request in left.items() if key not in known.keys}
        for part in _parts(left, self.endpoint, self.most):
            new = StoredBatch(uuid4().hex, [*part])
            journal.add_batch(new)
            new = StoredBatch(new.name, new.keys, await call.create(new.name, b"".join(part.values())))
            journal.add_batch(new)
            found.append(new)
        for one in found:
            yield one

    async def _ended(self, call: _Calls, batch: StoredBatch) -> Batch | None:
        """Wait for the end of a batch; None if the provider no longer knows it."""
        said, line_at = "", float("-inf")
        while True:
            found = await call.retrieve(str(batch.id))
            if found is None or found.status in _ENDED:
                return found
            counts = found.request_counts
            line = f"batch {found.id} of {self.shown}: {found.status}"
            if counts is not None:
                line += f", {counts.completed:,} of {counts.total:,} answered, {counts.failed:,} failed"
            if line != said and time.monotonic() - line_at >= _SECONDS_BETWEEN_LINES:
                said, line_at = line, time.monotonic()
                _log.warning(line)
            await asyncio.sleep(self.poll)

    async def _lines(
        self, call: _Calls, batch: Batch | None
    ) -> tuple[dict[str, dict[str, Any]], dict[str, Exception]]:
        """Return the answers of a batch that ended, and what the errors mean, by key."""
        answers: dict[str, dict[str, Any]] = {}
        errors: dict[str, Exception] = {}
        if batch is None:
            return answers, errors
        for file in (batch.output_file_id, batch.error_file_id):
            for row in _rows(await call.content(file)) if file else ():
                key, response, error = str(row.get("custom_id")), row.get("response"), row.get("error")
                body = response.get("body") if isinstance(response, dict) else None
                status = response.get("status_code") if isinstance(response, dict) else None
                if status == 200 and isinstance(body, dict):
                    answers[key] = body
                elif isinstance(status, int) and status != 200:
                    errors[key] = self.means(status, json.dumps(body, ensure_ascii=False))
                else:
                    code = error.get("message") or error.get("code") if isinstance(error, dict) else None
                    errors[key] = TryAgain(str(code or "a line without an answer"))
        return answers, errors

    def _refusal(self, batch: Batch | None, answers: int) -> ModelError | None:
        """Return why no further batch can be sent, if there is a reason."""
        if batch is not None and batch.status == "cancelled":
            return ModelError(
                f"the batch {batch.id} of {self.shown} was cancelled; its {answers:,} answers are kept: run again to "
                "ask for the others"
            )
        errors = (batch.errors.data if batch.errors else None) or [] if batch is not None else []
        if batch is None or batch.status != "failed" or any(one.code == _BUSY for one in errors):
            return None
        said = (f"line {one.line}: {one.message}" if one.line else str(one.message) for one in errors[:3])
        return ModelError(
            f"{self.shown} refused the batch {batch.id}: {'; '.join(said) or 'it gives no reason'}; correct it, or "
            "leave out server.batch"
        )


@dataclass(frozen=True)
class _Calls:
    """The calls of a provider's API, repeated where they fail for a while."""

    batches: Batches
    asks: Asks
    client: AsyncOpenAI

    async def _call(self, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        from openai import OpenAIError

        async def once() -> T:
            try:
                return await ask()
            except OpenAIError as error:
                raise self.batches.raised(error) from None

        return await self.asks(once)

    async def create(self, name: str, lines: bytes) -> str:
        """Upload a file of requests, create its batch under a name, and return the id."""
        try:
            return await self._created(name, lines)
        except Unavailable:
            raise
        except ModelError as error:
            raise ModelError(f"{error}; if the provider has no batches, leave out server.batch") from None

    async def _created(self, name: str, lines: bytes) -> str:
        files, batches = self.client.files, self.client.batches
        endpoint: Any = self.batches.endpoint
        file = await self._call(lambda: files.create(file=(f"{name}.jsonl", lines), purpose="batch"))
        made = await self._call(
            lambda: batches.create(
                input_file_id=file.id,
                endpoint=endpoint,
                completion_window="24h",
                metadata={NAME: name},
                extra_headers={"Idempotency-Key": name},
            )
        )
        return made.id

    async def id_of(self, name: str) -> str | None:
        """Return the id of the batch with a name; None if there is none."""

        async def find() -> str | None:
            async for one in self.client.batches.list(limit=100):
                if (one.metadata or {}).get(NAME) == name:
                    return one.id
            return None

        return await self._call(find)

    async def retrieve(self, id: str) -> Batch | None:
        """Return a batch; None if the provider does not know it."""
        from openai import NotFoundError

        async def find() -> Batch | None:
            try:
                return await self.client.batches.retrieve(id)
            except NotFoundError:
                return None

        return await self._call(find)

    async def content(self, file: str) -> bytes:
        """Return the content of a file."""

        async def read() -> bytes:
            return (await self.client.files.content(file)).content

        return await self._call(read)

    async def delete_files(self, batch: Batch | None) -> None:
        """Delete the files of a batch at the provider, if it can."""
        from openai import OpenAIError

        files = (batch.input_file_id, batch.output_file_id, batch.error_file_id) if batch else ()
        for file in filter(None, files):
            with suppress(OpenAIError):
                await self.client.files.delete(file)


def _parts(requests: Mapping[str, Request], endpoint: str, most: int) -> Sequence[dict[str, bytes]]:
    """Return the lines of each file of requests, by key."""
    parts: list[dict[str, bytes]] = []
    size = 0
    for key, request in requests.items():
        row = {"custom_id": key, "method": request.method, "url": endpoint, "body": request.body}
        line = json.dumps(row, ensure_ascii=False).encode(errors="replace") + b"\n"
        if not parts or len(parts[-1]) >= most or size + len(line) > _MOST_BYTES:
            parts.append({})
            size = 0
        parts[-1][key] = line
        size += len(line)
    return parts


def _rows(content: bytes) -> Sequence[dict[str, Any]]:
    """Return the JSON objects of a file, one a line; lines that are none count as missing."""
    rows = []
    for line in content.splitlines():
        with suppress(json.JSONDecodeError, UnicodeDecodeError):
            row = json.loads(line)
            rows += [row] if isinstance(row, dict) else []
    return rows
