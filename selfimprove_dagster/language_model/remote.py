"""Send requests to the servers of a model: in parallel, within limits, and again where they fail.

Several servers of one model share the work: a request goes to the one with the fewest open requests. A server that
fails is left out for a while and then tried again. If a request fails finally, the same request is sent with a short
prompt: if it is answered, the prompt of the request is at fault and the others are continued; if not, ModelError is
raised.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from selfimprove_dagster.errors import ModelError, ModelUnavailable
from selfimprove_dagster.language_model.base import Generation
from selfimprove_dagster.language_model.paid import PAID, Journal

Answer = Mapping[str, Any]

Read = TypeVar("Read")

FIRST_WAIT = 0.5
"""Upper bound of the first wait in seconds; it doubles with each attempt."""

LEFT_OUT = 10.0
"""Seconds for which a server that failed is left out, if there is another; they double with each failure in turn."""

_LONGEST_WAIT = 60.0

_LONGEST_LEFT_OUT = 300.0

_TURN = 0.005
"""Seconds between two looks for a server with room."""

_BUSY = {408, 409, 425, 429}

_REFUSED = {400, 403, 413, 422}
"""Statuses with which a server refuses one prompt, or every request."""


class Unanswered(ModelError):
    """A request that failed finally; `result` is that of its row, if the prompt is at fault."""

    def __init__(self, message: str, result: Generation) -> None:
        super().__init__(message)
        self.result = result


class Unavailable(Unanswered, ModelUnavailable):
    """A request that no server answered in any attempt."""


class TryAgain(Exception):
    """A failure that may be temporary; `after` is the requested wait in seconds.

    `server_fails`: it is the server that fails, so that another one may answer.
    """

    def __init__(self, reason: str, after: float | None = None, server_fails: bool = True) -> None:
        super().__init__(reason)
        self.after, self.server_fails = after, server_fails


@dataclass(frozen=True)
class Request:
    """What is sent: the fields of the body, and the seeds of its rows, of which a server may not know.

    Equal requests with equal seeds have the same answer. `tokens` is how many count against a limit per minute.
    """

    body: dict[str, Any] | None
    seeds: tuple[int, ...] = ()
    tokens: int = 0
    method: str = "POST"
    route: str = "/completions"


Send = Callable[[Request], Coroutine[Any, Any, dict[str, Any]]]
"""Sends a request to one server once. Raises TryAgain, Unanswered, or ModelError for what no request is spared."""

Connect = Callable[["Server"], AbstractAsyncContextManager[Send]]
"""Opens the connections to one server."""


Repeated = TypeVar("Repeated")


class Asks(Protocol):
    """Makes a call until it does not raise TryAgain, as often as a request is attempted."""

    async def __call__(self, ask: Callable[[], Coroutine[Any, Any, Repeated]]) -> Repeated:
        """Return what the call returns. Raises Unavailable if it fails each time."""


class InBatches(Protocol):
    """Sends many requests at once."""

    async def ask(
        self, requests: Mapping[str, Request], journal: Journal, asks: Asks
    ) -> dict[str, Unanswered]:
        """Store the answers to requests, by their keys, in the journal, and return those that failed."""


@dataclass
class Server:
    """One server of the model: the number of its open requests, and until when it is left out."""

    url: str
    busy: int = 0
    failures: int = 0
    out_until: float = 0.0

    @property
    def shown(self) -> str:
        """Return the address without a password."""
        return without_password(self.url)

    def failed(self, after: float | None = None) -> None:
        """Leave the server out: for `after` seconds, or else for longer with each failure in turn."""
        self.failures += 1
        doubled = min(LEFT_OUT * 2.0 ** (self.failures - 1), _LONGEST_LEFT_OUT)
        self.out_until = time.monotonic() + (doubled if after is None else after)

    def answered(self) -> None:
        """Forget earlier failures, unless the answer was under way when the server failed."""
        if self.out_until <= time.monotonic():
            self.failures = 0


@dataclass
class Pace:
    """Spaces requests so that no more are sent per minute than allowed, and no more tokens."""

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    _next: float = 0.0

    def wait(self, tokens: int, now: float) -> float:
        """Return how many seconds the next request has to wait, and reserve its place."""
        spaces = [
            amount * 60 / limit
            for amount, limit in ((1, self.requests_per_minute), (tokens, self.tokens_per_minute))
            if limit
        ]
        start = max(now, self._next)
        self._next = start + max(spaces, default=0.0)
        return start - now


@dataclass
class Remote:
    """The servers of one model, and how they are asked.

    `model_id` and `journal`: with a journal, answers are stored in it, and requests that it can answer are not sent.
    `price` returns what an answer costs, in dollars. With `batches` and a journal, requests are sent in batches.
    """

    servers: list[Server]
    connect: Connect
    model_id: str
    concurrency: int = 64
    deadline: float = 300.0
    attempts: int = 8
    pace: Pace = field(default_factory=Pace)
    journal: Journal | None = None
    price: Callable[[Answer], float] = lambda answer: 0.0
    batches: InBatches | None = None

    @classmethod
    def of(
        cls,
        url: str | Sequence[str],
        connect: Connect,
        model_id: str,
        *,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        **options: Any,
    ) -> Remote:
        """Return the servers at one or several addresses."""
        urls = [url] if isinstance(url, str) else [*url]
        servers = [Server(one.rstrip("/")) for one in urls]
        return cls(servers, connect, model_id, pace=Pace(requests_per_minute, tokens_per_minute), **options)

    @property
    def shown(self) -> str:
        """Return the addresses, without passwords."""
        return ", ".join(server.shown for server in self.servers)

    def only(self, server: Server) -> Remote:
        """Return one of the servers; where there are others, it is asked twice at most."""
        attempts = self.attempts if len(self.servers) == 1 else min(self.attempts, 2)
        return replace(self, servers=[server], attempts=attempts)

    def run(
        self,
        requests: Sequence[Request],
        read: Callable[[Answer], Read],
        failed: Callable[[Unanswered, Request], Read] | None = None,
        check: Callable[[Answer], Any] = lambda answer: None,
        shortest: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None,
        keep: Callable[[Read], bool] = lambda result: True,
    ) -> list[Read]:
        """Apply `read` to each answer as it arrives, and return the results in the order of the requests.

        The journal keeps an answer unless `read` raises, or `keep` refuses the result, as asking again may help.

        `failed` gives the result of a request whose prompt is at fault, as the servers answer the same request with
        the prompt of `shortest`; `check` reads this answer. Raises ModelError for any other failure, and for each one
        without `failed`.
        """

        async def ask_all() -> list[Read]:
            places = asyncio.Semaphore(self.concurrency * len(self.servers))
            async with AsyncExitStack() as stack:
                journal = stack.enter_context(self.journal.kept_open()) if self.journal else None
                senders = {
                    server.url: await stack.enter_async_context(self.connect(server))
                    for server in self.servers
                }

                # Of equal requests, the first is sent, and the others find its answer in the journal.
                turns: defaultdict[str, AbstractAsyncContextManager[Any]] = defaultdict(
                    asyncio.Lock if journal is not None else nullcontext
                )

                refused: dict[str, Unanswered] = {}
                asked: dict[str, Request] = {}
                if self.batches is not None and journal is not None:
                    keyed = {self.key_of(request): request for request in requests}
                    asked = {key: request for key, request in keyed.items() if not journal.find(key)}
                    refused = await self.batches.ask(asked, journal, self._retried) if asked else {}

                async def one(request: Request) -> Read:
                    key = self.key_of(request)
                    async with turns[key], places:
                        try:
                            if key in refused:
                                raise refused[key]
                            if journal is not None and key in asked and (found := journal.find(key)):
                                return self._read_once(journal, key, found.answer, read, keep)
                            return await self._read(senders, journal, request, read, keep)
                        except Unanswered as error:
                            if failed is None or request.body is None or shortest is None:
                                raise
                            if key in refused and len(refused) < len(asked):
                                return failed(error, request)  # others of the batch were answered
                            short = replace(request, body=shortest(request.body), tokens=0)
                            check(await self._ask(senders, short))
                            return failed(error, request)

                try:
                    async with asyncio.TaskGroup() as group:
                        tasks = [group.create_task(one(request)) for request in requests]
                except* ModelError as errors:
                    raise errors.exceptions[0] from None
                return [task.result() for task in tasks]

        return asyncio.run(ask_all())

    def key_of(self, request: Request) -> str:
        """Return the key of a request in the journal, which also tells the provider that a request is sent again."""
        asked = [self.model_id, request.method, request.route, request.body, request.seeds]
        text = json.dumps(asked, sort_keys=True, ensure_ascii=False).encode(errors="surrogatepass")
        return hashlib.blake2b(text, digest_size=16).hexdigest()

    async def _read(
        self,
        senders: Mapping[str, Send],
        journal: Journal | None,
        request: Request,
        read: Callable[[Answer], Read],
        keep: Callable[[Read], bool],
    ) -> Read:
        """Apply `read` to the answer of the journal, or else of a server, which is stored before this returns."""
        if journal is None:
            answer = await self._ask(senders, request)
            PAID.add(self.price(answer))
            return read(answer)
        key = self.key_of(request)
        if found := journal.find(key):
            if not found.is_settled:
                PAID.use(journal.path, key, self.price(found.answer))
            return read(found.answer)
        answer = await self._ask(senders, request)
        result = read(answer)
        if keep(result):
            journal.add(key, answer)
            PAID.use(journal.path, key, self.price(answer))
        else:
            PAID.add(self.price(answer))
        return result

    def _read_once(
        self,
        journal: Journal,
        key: str,
        answer: Answer,
        read: Callable[[Answer], Read],
        keep: Callable[[Read], bool],
    ) -> Read:
        """Apply `read` to an answer that a batch stored, and remove it if asking again may help."""
        PAID.use(journal.path, key, self.price(answer))
        result = read(answer)
        if not keep(result):
            journal.remove(key)
        return result

    async def _ask(self, senders: Mapping[str, Send], request: Request) -> dict[str, Any]:
        return await self._retried(lambda: self._ask_once(senders, request))

    async def _retried(self, ask: Callable[[], Coroutine[Any, Any, Repeated]]) -> Repeated:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(TryAgain),
            stop=stop_after_attempt(self.attempts),
            wait=self._wait,
            reraise=True,
        )
        try:
            async for attempt in retrying:
                with attempt:
                    return await ask()
        except TryAgain as error:
            failed = f"failed {self.attempts} times, finally with: {error}"
            who = "the server" if len(self.servers) == 1 else "the servers"
            raise Unavailable(
                f"{who} at {self.shown} {failed}. Check "
                f"{'its log' if len(self.servers) == 1 else 'their logs'}; if the address is wrong, correct server.url "
                "of the model; what is finished is kept, so run again when it answers",
                Generation.without_text("failed", f"{who} {failed}"),
            ) from None
        raise AssertionError("unreachable")

    async def _ask_once(self, senders: Mapping[str, Send], request: Request) -> dict[str, Any]:
        if (wait := self.pace.wait(request.tokens, time.monotonic())) > 0:
            await asyncio.sleep(wait)
        while (server := self._least_busy()).busy >= self.concurrency:
            await asyncio.sleep(_TURN)
        server.busy += 1
        try:
            async with asyncio.timeout(self.deadline):
                answer = await senders[server.url](request)
        except TimeoutError:
            server.failed()
            raise TryAgain(f"no answer within {self.deadline:g} s") from None
        except TryAgain as error:
            if error.server_fails:
                server.failed(error.after)
            raise
        finally:
            server.busy -= 1
        server.answered()
        return answer

    def _least_busy(self) -> Server:
        """Return the server with the fewest open requests that is not left out; else the first to be tried again."""
        now = time.monotonic()
        usable = [server for server in self.servers if server.out_until <= now]
        if usable:
            return min(usable, key=lambda server: server.busy)
        return min(self.servers, key=lambda server: server.out_until)

    def _wait(self, state: RetryCallState) -> float:
        """Return the wait that the server requested, or one that grows with each failure, with jitter.

        It is 0 if another server can be asked.
        """
        error = state.outcome.exception() if state.outcome else None
        now = time.monotonic()
        fails = isinstance(error, TryAgain) and error.server_fails
        if fails and any(server.out_until <= now for server in self.servers):
            return 0.0
        asked = error.after if isinstance(error, TryAgain) else None
        drawn = wait_random_exponential(multiplier=FIRST_WAIT, max=_LONGEST_WAIT)(state)
        return drawn if asked is None else min(asked, _LONGEST_WAIT) + drawn


def none_failed(rows: Sequence[Generation]) -> bool:
    """Return whether every row of an answer has a text, or is refused for good."""
    return all(row.finish_reason != "failed" for row in rows)


def check_status(server: Server, status: int, text: str, headers: Mapping[str, str], key: str) -> None:
    """Raise the error for the status of an answer that is none; `key` is left out of its text."""
    if status in _BUSY or status >= 500:
        after = seconds_after(headers)
        raise TryAgain(f"status {status}", after, server_fails=status >= 500 or after is not None)
    if status >= 300:
        said = " ".join(text.split())
        if key:
            said = said.replace(key, "***")
        refusal = f"refused with status {status}: {said[:300]}"
        message = f"the server at {server.shown} {refusal}"
        if status in _REFUSED:
            raise Unanswered(message, Generation.without_text("refused", f"the server {refusal}"))
        raise ModelError(message)


def json_object(text: str | bytes) -> dict[str, Any]:
    """Return the JSON object in the body of an answer. Raises TryAgain for anything else."""
    try:
        answer = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise TryAgain("an answer that is not JSON") from None
    if not isinstance(answer, dict):
        raise TryAgain("an answer that is no JSON object")
    return answer


def seconds_after(headers: Mapping[str, str]) -> float | None:
    """Return the wait that `Retry-After` requests, in seconds, given as a number or as a date."""
    header = headers.get("retry-after")
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


def without_password(url: str) -> str:
    """Return an address without the name and password of a user."""
    scheme, separator, rest = url.partition("://")
    return scheme + separator + rest.rpartition("@")[2]


def place_of(url: str) -> str:
    """Return host and path of an address."""
    parts = urlsplit(without_password(url))
    return parts.netloc + parts.path.rstrip("/")
