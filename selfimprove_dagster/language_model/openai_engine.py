"""Use language models on a server with the OpenAI completions protocol, such as `vllm serve`.

Prompts are sent as token ids if the server accepts and returns them (like vLLM), else as text. Requests run
in parallel up to a limit. If a server is busy or fails, requests are retried at growing intervals. If a request fails
finally, the server is asked for one token after the shortest prompt: if it answers, the prompt of the request is at
fault and the others are continued; if not, ModelError is raised.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from math import nan
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import numpy as np
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt
from tenacity.wait import wait_random_exponential

from selfimprove_dagster.errors import ModelError, ModelUnavailable
from selfimprove_dagster.language_model.base import Generation, Progress, SamplingParameters
from selfimprove_dagster.language_model.folder import model_folder, positions_of, revision_of
from selfimprove_dagster.language_model.tokens import (
    BANNED,
    TokenText,
    check_contexts,
    check_most,
    check_options,
    check_sampling,
    is_among,
    joint_logprobs,
    normalised,
    without_room,
)
from selfimprove_dagster.language_model.weights import model_id

_log = logging.getLogger(__name__)


Answer = TypeVar("Answer")


SEEDED = (
    "each row's seed is sent, and it depends on the server and its batches whether it gives the same text, and so the "
    "same id, again"
)

UNSEEDED = "no seeds are sent: a repeated or resumed run gives other texts and ids; finished shards are kept"

FIRST_WAIT = 0.5
"""Upper bound of the first wait in seconds; it doubles with each attempt."""


_LONGEST_WAIT = 60.0


_BUSY = {408, 409, 425, 429}


_REFUSED = {400, 403, 413, 422}
"""Statuses with which a server refuses one prompt, or every request."""


class OpenAILanguageModel(TokenText):
    """A model on a server; implements `base.LanguageModel`.

    The folder provides the tokenizer and, by the hash of its weights, the model's identity. The server must
    serve the same folder, or a name that does not contradict it.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        url: str = "http://127.0.0.1:8000/v1",
        key_variable: str = "OPENAI_API_KEY",
        concurrency: int = 64,
        deadline: float = 300.0,
        attempts: int = 8,
        send_seeds: bool = True,
        trust_remote_code: bool = False,
    ) -> None:
        """Connect to the server at `url` and detect its model and features.

        `key_variable`: environment variable with the key, if the server needs one. `concurrency`: maximum
        number of parallel requests. `deadline`: time limit of a request in seconds. `attempts`: maximum
        number of attempts per request. `send_seeds`: False for servers that fail on seeds. Raises ModelError
        if the server cannot be reached or serves another model.
        """
        folder = model_folder(path, trust_remote_code=trust_remote_code)
        super().__init__(folder, trust_remote_code=trust_remote_code)
        self.model_id = model_id(folder)
        self.revision = revision_of(folder)
        self.positions = positions_of(folder, trust_remote_code=trust_remote_code)
        self._url = url.rstrip("/")
        self._shown = _without_password(self._url)
        self._key = os.environ.get(key_variable, "")
        self._concurrency, self._deadline, self._attempts = concurrency, deadline, attempts
        self._send_seeds = send_seeds
        (served,) = self._run([("GET", "/models", None)], lambda answer: answer.get("data") or [])
        self._name = self._served_name(served, folder)
        self._takes_ids = True
        (probe,) = self._complete([self._request([self.end_token_id], max_tokens=1)], self._choices)
        self._takes_ids = probe[0].get("token_ids") is not None
        self.cannot_score = self._why_no_scores()
        self.engine = f"openai protocol, {served[0].get('owned_by') or 'unnamed server'}"
        if not self._takes_ids:
            _log.warning(
                f"the server at {self._shown} does not support token ids: prompts are sent as text, and "
                "completions are tokenised again, which may differ from the sampled tokens"
            )
        if not send_seeds:
            _log.warning(
                f"no seeds are sent to {self._shown}: a resumed run, or a replay, samples other paths than "
                f"an "
                "uninterrupted run"
            )

    @staticmethod
    def promised(options: Mapping[str, Any]) -> str:
        """Return what the engine with these options promises; see `language_model.promise_of`."""
        return SEEDED if options.get("send_seeds", True) else UNSEEDED

    @property
    def promise(self) -> str:
        """Return which texts and ids a repeated run gives."""
        return SEEDED if self._send_seeds else UNSEEDED

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        parameters: SamplingParameters,
        progress: Progress | None = None,
    ) -> list[list[Generation]]:
        """Sample `len(seeds[i])` continuations of `prompts[i]`, with one request each; without seeds, one for all.

        A structure is sent as `structured_outputs`, a field of vLLM's server. Raises ModelError if the server ignores
        or refuses it.
        """
        check_sampling(prompts, seeds, parameters)
        settings: dict[str, Any] = {
            "temperature": parameters.temperature,
            "top_p": parameters.top_p,
            "stop": self.engine_stops(parameters.stop) or None,
        }
        if parameters.top_k:
            settings["top_k"] = parameters.top_k
        if parameters.banned:
            settings["logit_bias"] = {str(token): BANNED for token in parameters.banned}
        if parameters.structure is not None:
            settings["structured_outputs"] = parameters.structure.vllm_fields
        started = [self.started(prompt) for prompt in prompts]
        self.check_structure(started, parameters)
        full = without_room(started, self.positions)
        if progress is not None and full:
            progress(sum(len(seeds[index]) for index in full), 0)
        bodies = []
        for index, (prompt, row) in enumerate(zip(started, seeds, strict=True)):
            if index in full:
                continue
            room = min(parameters.max_tokens, self.positions - len(prompt))
            asked = self._request(prompt, max_tokens=room, **settings)
            if self._send_seeds:
                bodies += [{**asked, "seed": seed} for seed in row]
            elif parameters.temperature == 0:  # vLLM refuses several greedy continuations in one request
                bodies += [asked] * len(row)
            elif row:
                bodies.append({**asked, "n": len(row)})

        def read(answer: Mapping[str, Any]) -> list[Generation]:
            choices = self._choices(answer)
            found = [self._generation(choice) for choice in choices]
            self._check_answers(choices, found, parameters)
            drawn = [path if path.problem else self.ended(path, parameters.stop) for path in found]
            if progress is not None:
                progress(len(drawn), sum(len(path.token_ids) for path in drawn))
            return drawn

        def failed(error: _Unanswered, body: Mapping[str, Any]) -> list[Generation]:
            rows = body.get("n", 1)
            if progress is not None:
                progress(rows, 0)
            return [error.result] * rows

        drawn = iter(self._complete(bodies, read, failed, self._choices))
        paths = []
        for index, row in enumerate(seeds):
            if index in full:
                paths.append([full[index]] * len(row))
            elif self._send_seeds:
                paths.append([next(drawn)[0] for _ in row])
            else:
                paths.append(_padded(next(drawn) if row else [], len(row)))
        return paths

    def score(
        self, contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Return the natural log-probability of each token of `continuations[i]` after `contexts[i]`.

        Raises ModelError if the server does not return log-probabilities of prompts or does not accept token
        ids.
        """
        return [
            [
                float(place[str(token)]["logprob"]) if place else nan
                for place, token in zip(places, continuation, strict=True)
            ]
            for places, continuation in zip(
                self._places(contexts, continuations, 0), continuations, strict=True
            )
        ]

    def among_likeliest(
        self,
        contexts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        token_id: int,
        most: int,
    ) -> list[list[bool]]:
        """Return, for each token of the continuations, whether `token_id` is among the `most` most likely ones
        in its place.

        Raises ModelError like `score`, and if `most` is above 20.
        """
        check_most(most)
        return [
            [
                is_among({token: float(one["logprob"]) for token, one in place.items()}, str(token_id), most)
                for place in places
            ]
            for places in self._places(contexts, continuations, most)
        ]

    def _places(
        self, contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]], most: int
    ) -> list[list[Any]]:
        """Return the server's log-probabilities at each token: of the token and of the `most` most likely ones.

        There are none at the tokens of a continuation that leaves no room in the model's context, or that the server
        does not score.
        """
        check_contexts(contexts, continuations)
        if self.cannot_score:
            raise ModelError(self.cannot_score)
        started = [self.started(context) for context in contexts]
        bodies = {
            index: self._request(
                [*started[index], *continuation], max_tokens=1, temperature=0.0, prompt_logprobs=most
            )
            for index, continuation in enumerate(continuations)
            if 0 < len(continuation) < self.positions - len(started[index])
        }
        read = self._prompt_logprobs
        answers = self._complete([*bodies.values()], read, lambda error, body: [], read)
        places: list[list[Any]] = [[{}] * len(continuation) for continuation in continuations]
        for index, found in zip(bodies, answers, strict=True):
            places[index] = found[len(started[index]) :] or places[index]
        return places

    def option_probabilities(
        self, contexts: Sequence[Sequence[int]], options: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Return the probability of each option (token ids, equal for all contexts), summing to 1 per context."""
        check_options(options)
        return normalised(joint_logprobs(self.score, contexts, options))

    def next_token_probability(self, sequences: Sequence[Sequence[int]], token_id: int) -> list[list[float]]:
        """Return p(token_id | tokens up to and including i) for each sequence and each position i."""
        prefixes = [sequence[: end + 1] for sequence in sequences for end in range(len(sequence))]
        found = iter(self.score(prefixes, [[token_id]] * len(prefixes)))
        return [[float(np.exp(next(found)[0])) for _ in sequence] for sequence in sequences]

    def close(self) -> None:
        """Do nothing, since the model is on the server."""

    def _request(self, prompt: Sequence[int], **settings: Any) -> dict[str, Any]:
        asked: dict[str, Any] = {"model": self._name, "logprobs": 0, **settings}
        if self._takes_ids:
            return {**asked, "prompt": list(prompt), "return_token_ids": True}
        return {**asked, "prompt": self.tokenizer.decode(list(prompt))}

    def _generation(self, choice: Mapping[str, Any]) -> Generation:
        text = choice.get("text")
        if choice.get("finish_reason") == "content_filter":
            return Generation.without_text("refused", "the server's content filter left out the text")
        if not isinstance(text, str):
            return Generation.without_text("failed", "the server returned no text")
        token_ids = choice.get("token_ids") if self._takes_ids else self.encode_continuation(text)
        if token_ids is None:
            return Generation.without_text("failed", "the server returned no token ids")
        logprobs = (choice.get("logprobs") or {}).get("token_logprobs") or []
        if self._takes_ids and len(logprobs) != len(token_ids):
            raise ModelError(
                f"the server at {self._shown} returned {len(logprobs)} log-probabilities for "
                f"{len(token_ids)} tokens: turn on its log-probabilities"
            )
        if None in logprobs:
            return Generation.without_text(
                "failed", "the server returned a token without its log-probability"
            )
        return Generation(
            token_ids=list(token_ids),
            logprobs=[float(value) for value in logprobs],
            text=text,
            finish_reason="length" if choice.get("finish_reason") == "length" else "stop",
        )

    def _check_answers(
        self,
        choices: Sequence[Mapping[str, Any]],
        drawn: Sequence[Generation],
        parameters: SamplingParameters,
    ) -> None:
        """Raise ModelError for a text that ended by itself and does not match the structure that was asked for."""
        if parameters.structure is None:
            return
        for choice, path in zip(choices, drawn, strict=True):
            by_itself = path.finish_reason == "stop" and choice.get("stop_reason") not in parameters.stop
            if by_itself and (problem := parameters.structure.mismatch(path.text)):
                raise ModelError(
                    f"the server at {self._shown} answered {path.text[:200]!r}, where {parameters.structure} was "
                    f"asked for: {problem}. Use a server that knows the field `structured_outputs`, such as vLLM "
                    "0.12 or later, or another engine"
                )

    def _choices(self, answer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        choices: list[Mapping[str, Any]] = answer.get("choices") or []
        if not choices or "text" not in choices[0]:
            raise _Unanswered(
                f"the server at {self._shown} answered without a completion: does it speak /completions?",
                Generation.without_text("failed", "the server answered without a completion"),
            )
        return sorted(choices, key=lambda choice: choice.get("index", 0))

    def _why_no_scores(self) -> str | None:
        """Return the feature that the server lacks for scoring, tested with one token; None if it can score."""
        if not self._takes_ids:
            return f"the server at {self._shown} does not accept token ids, so it cannot score them"
        ids = [self.end_token_id] * 2
        asked = self._request(ids, max_tokens=1, temperature=0.0, prompt_logprobs=0)
        try:
            self._complete([asked], self._prompt_logprobs)
        except ModelError as error:
            return str(error)
        return None

    def _prompt_logprobs(self, answer: Mapping[str, Any]) -> list[Any]:
        places = self._choices(answer)[0].get("prompt_logprobs")
        if not places:
            raise _Unanswered(
                f"the server at {self._shown} returns no log-probabilities of prompts, so it cannot score",
                Generation.without_text("failed", "the server returned no log-probabilities of the prompt"),
            )
        return list(places)

    def _served_name(self, served: Sequence[Mapping[str, Any]], folder: Path) -> str:
        """Return the name of the served model that is this folder, or the name of the only model."""
        if not served:
            raise ModelError(f"the server at {self._shown} serves no model")
        for model in served:
            root = Path(str(model.get("root") or model["id"]))
            if root.is_dir() and model_id(root) == self.model_id:
                return str(model["id"])
        unknown = [str(m["id"]) for m in served if not Path(str(m.get("root") or m["id"])).is_dir()]
        if not unknown:
            names = ", ".join(str(model["id"]) for model in served)
            raise ModelError(
                f"the server at {self._shown} serves {names}, not the model in {folder}: "
                f"start it again with `vllm serve {folder}`"
            )
        return unknown[0]

    def _complete(
        self,
        bodies: Sequence[dict[str, Any]],
        read: Callable[[Mapping[str, Any]], Answer],
        failed: Callable[[_Unanswered, Mapping[str, Any]], Answer] | None = None,
        check: Callable[[Mapping[str, Any]], Any] = lambda answer: None,
    ) -> list[Answer]:
        """Apply `read` to each completion, in the order of the requests; `failed` and `check` as in `_run`."""
        return self._run([("POST", "/completions", body) for body in bodies], read, failed, check)

    def _run(
        self,
        requests: Sequence[tuple[str, str, dict[str, Any] | None]],
        read: Callable[[Mapping[str, Any]], Answer],
        failed: Callable[[_Unanswered, Mapping[str, Any]], Answer] | None = None,
        check: Callable[[Mapping[str, Any]], Any] = lambda answer: None,
    ) -> list[Answer]:
        """Apply `read` to each answer as it arrives.

        `failed` gives the result of a request whose prompt is at fault, as the server answers the same request with
        the shortest prompt; `check` reads this answer. Raises ModelError for any other failure, and for each one
        without `failed`.
        """

        async def ask_all() -> list[Answer]:
            headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
            limits = httpx2.Limits(max_connections=self._concurrency)
            places = asyncio.Semaphore(self._concurrency)
            async with httpx2.AsyncClient(headers=headers, limits=limits, timeout=None) as client:

                async def one(method: str, route: str, body: dict[str, Any] | None) -> Answer:
                    async with places:
                        try:
                            return read(await self._ask(client, method, route, body))
                        except _Unanswered as error:
                            if failed is None or body is None:
                                raise
                            check(await self._ask(client, method, route, self._shortest(body)))
                            return failed(error, body)

                try:
                    async with asyncio.TaskGroup() as group:
                        tasks = [group.create_task(one(*request)) for request in requests]
                except* ModelError as errors:
                    raise errors.exceptions[0] from None
                return [task.result() for task in tasks]

        return asyncio.run(ask_all())

    def _shortest(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the request for one token after the shortest prompt, which is otherwise equal."""
        shortest = self._request([self.end_token_id] * 2)
        return {**body, "prompt": shortest["prompt"], "max_tokens": 1, **({"n": 1} if "n" in body else {})}

    async def _ask(
        self, client: httpx2.AsyncClient, method: str, route: str, body: dict[str, Any] | None
    ) -> dict[str, Any]:
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(_TryAgain),
            stop=stop_after_attempt(self._attempts),
            wait=self._wait,
            reraise=True,
        )
        try:
            async for attempt in retrying:
                with attempt:
                    return await self._ask_once(client, method, route, body)
        except _TryAgain as error:
            raise _Unavailable(
                f"the server at {self._shown} failed {self._attempts} times, finally with: {error}. Check "
                "its log; committed shards are kept, so run again when it answers",
                Generation.without_text(
                    "failed", f"the server failed {self._attempts} times, finally with: {error}"
                ),
            ) from None
        raise AssertionError("unreachable")

    def _wait(self, state: RetryCallState) -> float:
        """Return the wait that the server requested, or one that grows with each failure, with jitter."""
        error = state.outcome.exception() if state.outcome else None
        asked = error.after if isinstance(error, _TryAgain) else None
        drawn = wait_random_exponential(multiplier=FIRST_WAIT, max=_LONGEST_WAIT)(state)
        return drawn if asked is None else min(asked, _LONGEST_WAIT) + drawn

    async def _ask_once(
        self, client: httpx2.AsyncClient, method: str, route: str, body: dict[str, Any] | None
    ) -> dict[str, Any]:
        try:
            async with asyncio.timeout(self._deadline):
                response = await client.request(method, self._url + route, json=body)
        except TimeoutError:
            raise _TryAgain(f"no answer within {self._deadline:g} s") from None
        except httpx2.InvalidURL as error:
            raise ModelError(f"{self._shown} is not the address of a server: {error}") from None
        except httpx2.TransportError as error:
            raise _TryAgain(f"{type(error).__name__}: {error}") from None
        if response.status_code in _BUSY or response.status_code >= 500:
            raise _TryAgain(
                f"status {response.status_code}", after=_seconds(response.headers.get("retry-after"))
            )
        if response.status_code >= 300:
            said = " ".join(response.text.split())
            if self._key:
                said = said.replace(self._key, "***")
            refusal = f"refused with status {response.status_code}: {said[:300]}"
            message = f"the server at {self._shown} {refusal}"
            if response.status_code in _REFUSED:
                raise _Unanswered(message, Generation.without_text("refused", f"the server {refusal}"))
            raise ModelError(message)
        try:
            answer = response.json()
        except (json.JSONDecodeError, UnicodeDecodeError):
            raise _TryAgain("an answer that is not JSON") from None
        if not isinstance(answer, dict):
            raise _TryAgain("an answer that is no JSON object")
        return answer


class _Unanswered(ModelError):
    """A request that failed finally; `result` is that of its row, if the prompt is at fault."""

    def __init__(self, message: str, result: Generation) -> None:
        super().__init__(message)
        self.result = result


class _Unavailable(_Unanswered, ModelUnavailable):
    """A request that the server did not answer in any attempt."""


class _TryAgain(Exception):
    """A failure that may be temporary; `after` is the requested wait in seconds."""

    def __init__(self, reason: str, after: float | None = None) -> None:
        super().__init__(reason)
        self.after = after


def _seconds(header: str | None) -> float | None:
    try:
        return max(0.0, float(header)) if header is not None else None
    except ValueError:
        return None


def _padded(paths: Sequence[Generation], count: int) -> list[Generation]:
    """Return `count` results: these, and one without a text for each that the server left out."""
    missing = Generation.without_text("failed", f"the server returned {len(paths)} of {count} texts")
    return [*paths, *[missing] * (count - len(paths))][:count]


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    return scheme + separator + rest.rpartition("@")[2]
