"""Use language models on servers with the OpenAI completions protocol, such as `vllm serve`.

Prompts are sent as token ids if the server accepts and returns them (like vLLM), else as text. See
`language_model.remote` for how requests are sent.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import islice
from math import nan
from pathlib import Path
from typing import Any, TypeVar

import httpx2
import numpy as np

from selfimprove_dagster.errors import ModelError, ModelUnavailable
from selfimprove_dagster.language_model.adapters import ADAPTER_NAME, adapter_in, vllm_settings
from selfimprove_dagster.language_model.base import Generation, Progress, SamplingParameters
from selfimprove_dagster.language_model.continuing import Part, Sampled, through_thoughts
from selfimprove_dagster.language_model.folder import base_folder, model_folder, positions_of, revision_of
from selfimprove_dagster.language_model.notices import warn_once
from selfimprove_dagster.language_model.paid import Journal, cost
from selfimprove_dagster.language_model.remote import (
    Remote,
    Request,
    Send,
    Server,
    TryAgain,
    Unanswered,
    check_status,
    json_object,
    none_failed,
)
from selfimprove_dagster.language_model.stopping import StopStrings
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


class OpenAILanguageModel(TokenText):
    """A model on a server; implements `base.LanguageModel`.

    The folder provides the tokenizer and, by the hash of its weights, the model's identity. The server must
    serve the same folder, or a name that does not contradict it.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        url: str | Sequence[str] = "http://127.0.0.1:8000/v1",
        key_variable: str = "OPENAI_API_KEY",
        send_seeds: bool = True,
        trust_remote_code: bool = False,
        prices: Mapping[str, float] | None = None,
        **sending: Any,
    ) -> None:
        """Connect to the server at `url`, or to several that serve the same model, and detect model and features.

        `key_variable`: environment variable with the key, if the server needs one. `send_seeds`: False for servers
        that fail on seeds. `prices`: those of `paid.cost`; answers that cost money are stored and not asked for twice.
        `sending`: see `Remote`. Raises ModelError if no server can be reached or one serves another model.
        """
        folder = model_folder(path, trust_remote_code=trust_remote_code)
        super().__init__(folder, trust_remote_code=trust_remote_code)
        self.model_id = model_id(folder)
        self.revision = revision_of(folder)
        self.positions = positions_of(folder, trust_remote_code=trust_remote_code)
        self._key = os.environ.get(key_variable, "")
        self._send_seeds = send_seeds
        self._remote = Remote.of(url, self._connect, self.model_id, **sending)
        self._shown = self._remote.shown
        self._names: dict[str, str] = {}
        owner = self._find_served(folder)
        if prices:
            self._remote.journal = Journal.of_home()
            self._remote.price = partial(_price, prices)
        self._takes_ids = True
        (probe,) = self._complete([Request(self._request([self.end_token_id], max_tokens=1))], self._choices)
        self._takes_ids = probe[0].get("token_ids") is not None
        self.cannot_score = self._why_no_scores()
        self.engine = f"openai protocol, {owner or 'unnamed server'}"
        if not self._takes_ids:
            warn_once(
                _log,
                f"the server at {self._shown} does not support token ids: prompts are sent as text, and "
                "completions are tokenised again, which may differ from the sampled tokens",
            )
        if not send_seeds:
            warn_once(
                _log,
                f"no seeds are sent to {self._shown}: a resumed run, or a replay, samples other paths than an "
                "uninterrupted run",
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
        """Sample `len(seeds[i])` continuations of `prompts[i]`, with one request each; without seeds, one for all
        of them, unless the temperature is 0.

        A structure is sent as `structured_outputs`, a field of vLLM's server. Raises ModelError if the server ignores
        or refuses it.
        """
        check_sampling(prompts, seeds, parameters)
        started = [self.started(prompt) for prompt in prompts]
        self.check_structure(started, parameters)
        full = without_room(started, self.positions)
        if progress is not None and full:
            progress(sum(len(seeds[index]) for index in full), 0)
        stop = tuple(self.engine_stops(parameters.stop))
        stops = self.stop_strings(parameters.stop)
        # vLLM refuses several greedy continuations in one request.
        one_by_one = self._send_seeds or parameters.temperature == 0
        groups: list[list[Part]] = []
        for index, (prompt, row) in enumerate(zip(started, seeds, strict=True)):
            if index not in full and row:
                room = min(parameters.max_tokens, self.positions - len(prompt))
                parts = [Part(prompt, seed, room, stop) for seed in row]
                groups += [[part] for part in parts] if one_by_one else [parts]
        sampled = self._sampled(groups, parameters, progress, stops)
        whole = through_thoughts(
            [part for parts in groups for part in parts],
            sampled,
            stops,
            lambda parts: self._sampled([[part] for part in parts], parameters, progress),
        )
        drawn = (
            self.ended(path, stops) if one.stopped and path.problem is None else path
            for path, one in zip(whole, sampled, strict=True)
        )
        return [
            [full[index]] * len(row) if index in full else [*islice(drawn, len(row))]
            for index, row in enumerate(seeds)
        ]

    def _sampled(
        self,
        groups: Sequence[Sequence[Part]],
        parameters: SamplingParameters,
        progress: Progress | None,
        stops: StopStrings | None = None,
    ) -> list[Sampled]:
        """Return what is sampled for each part; those of a group have the same prompt and are one request.

        `stops` are given for the first parts of rows: what no stop string of the server ended is cut by them.
        """

        def read(answer: Mapping[str, Any]) -> list[Sampled]:
            choices = self._choices(answer)
            found = [self._generation(choice) for choice in choices]
            self._check_answers(choices, found, parameters)
            stopped = [
                parameters.structure is None and self._takes_ids and isinstance(one.get("stop_reason"), str)
                for one in choices
            ]
            drawn = [
                Sampled(
                    path if path.problem or by_string or stops is None else self.ended(path, stops), by_string
                )
                for path, by_string in zip(found, stopped, strict=True)
            ]
            if progress is not None:
                progress(len(drawn) if stops else 0, sum(len(one.part.token_ids) for one in drawn))
            return drawn

        def failed(error: Unanswered, request: Request) -> list[Sampled]:
            if progress is not None and stops:
                progress(len(request.seeds), 0)
            return [Sampled(error.result, False)] * len(request.seeds)

        def keep(drawn: Sequence[Sampled]) -> bool:
            return none_failed([one.part for one in drawn])

        requests = [self._sampling_request(parts, parameters) for parts in groups]
        answers = self._complete(requests, read, failed, self._choices, keep)
        return [
            one for parts, drawn in zip(groups, answers, strict=True) for one in _padded(drawn, len(parts))
        ]

    def _sampling_request(self, parts: Sequence[Part], parameters: SamplingParameters) -> Request:
        first = parts[0]
        settings: dict[str, Any] = {
            "temperature": parameters.temperature,
            "top_p": parameters.top_p,
            "stop": list(first.stop) or None,
        }
        if parameters.top_k:
            settings["top_k"] = parameters.top_k
        if parameters.banned:
            settings["logit_bias"] = {str(token): BANNED for token in parameters.banned}
        if parameters.structure is not None:
            settings["structured_outputs"] = parameters.structure.vllm_fields
        if self._send_seeds:
            settings["seed"] = first.seed
        elif parameters.temperature:
            settings["n"] = len(parts)
        body = self._request(first.prompt, max_tokens=first.room, **settings)
        tokens = len(first.prompt) + first.room * len(parts)
        return Request(body, tuple(part.seed for part in parts), tokens)

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
        requests = {
            index: Request(
                self._request(
                    [*started[index], *continuation], max_tokens=1, temperature=0.0, prompt_logprobs=most
                ),
                tokens=len(started[index]) + len(continuation) + 1,
            )
            for index, continuation in enumerate(continuations)
            if 0 < len(continuation) < self.positions - len(started[index])
        }
        read = self._prompt_logprobs
        answers = self._complete([*requests.values()], read, lambda error, request: [], read)
        places: list[list[Any]] = [[{}] * len(continuation) for continuation in continuations]
        for index, found in zip(requests, answers, strict=True):
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
        asked: dict[str, Any] = {"logprobs": 0, **settings}
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
            raise Unanswered(
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
            self._complete([Request(asked)], self._prompt_logprobs)
        except ModelError as error:
            return str(error)
        return None

    def _prompt_logprobs(self, answer: Mapping[str, Any]) -> list[Any]:
        places = self._choices(answer)[0].get("prompt_logprobs")
        if not places:
            raise Unanswered(
                f"the server at {self._shown} returns no log-probabilities of prompts, so it cannot score",
                Generation.without_text("failed", "the server returned no log-probabilities of the prompt"),
            )
        return list(places)

    def _find_served(self, folder: Path) -> str | None:
        """Note under which name each server has the model, and return the owner that the first one names.

        Raises ModelUnavailable if no server answers; one that does not is left out for a while.
        """
        owner: str | None = None
        for server in self._remote.servers:
            asked = Request(None, method="GET", route="/models")
            try:
                (served,) = self._remote.only(server).run([asked], lambda answer: answer.get("data") or [])
            except ModelUnavailable as error:
                if server is self._remote.servers[-1] and not self._names:
                    raise
                _log.warning(f"{error}; it is left out for a while")
                continue
            if not self._names:
                owner = served[0].get("owned_by") if served else None
            self._names[server.url] = self._served_name(server.shown, served, folder)
        return owner

    def _served_name(self, shown: str, served: Sequence[Mapping[str, Any]], folder: Path) -> str:
        """Return the name of the served model that is this folder, or the name of the only model."""
        if not served:
            raise ModelError(f"the server at {shown} serves no model")
        for model in served:
            root = Path(str(model.get("root") or model["id"]))
            if root.is_dir() and _is_at(root, self.model_id):
                return str(model["id"])
        unknown = [str(m["id"]) for m in served if not Path(str(m.get("root") or m["id"])).is_dir()]
        if not unknown:
            names = ", ".join(str(model["id"]) for model in served)
            raise ModelError(
                f"the server at {shown} serves {names}, not the model in {folder}: "
                f"start it again with `{_command(folder)}`"
            )
        return unknown[0]

    def _complete(
        self,
        requests: Sequence[Request],
        read: Callable[[Mapping[str, Any]], Answer],
        failed: Callable[[Unanswered, Request], Answer] | None = None,
        check: Callable[[Mapping[str, Any]], Any] = lambda answer: None,
        keep: Callable[[Answer], bool] = lambda result: True,
    ) -> list[Answer]:
        """Apply `read` to each completion, in the order of the requests; the rest is as in `Remote.run`."""
        return self._remote.run(requests, read, failed, check, self._shortest, keep)

    def _shortest(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the request for one token after the shortest prompt, which is otherwise equal."""
        shortest = self._request([self.end_token_id] * 2)
        return {**body, "prompt": shortest["prompt"], "max_tokens": 1, **({"n": 1} if "n" in body else {})}

    @asynccontextmanager
    async def _connect(self, server: Server) -> AsyncIterator[Send]:
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx2.Limits(max_connections=self._remote.concurrency)
        async with httpx2.AsyncClient(headers=headers, limits=limits, timeout=None) as client:

            async def send(request: Request) -> dict[str, Any]:
                named = {"model": self._names.get(server.url) or next(iter(self._names.values()), "")}
                body = None if request.body is None else {**named, **request.body}
                repeated = {"Idempotency-Key": self._remote.key_of(request)} if self._remote.journal else {}
                try:
                    response = await client.request(
                        request.method, server.url + request.route, json=body, headers=repeated
                    )
                except httpx2.InvalidURL as error:
                    raise ModelError(f"{server.shown} is not the address of a server: {error}") from None
                except httpx2.TransportError as error:
                    raise TryAgain(f"{type(error).__name__}: {error}") from None
                check_status(server, response.status_code, response.text, response.headers, self._key)
                return json_object(response.content)

            yield send


def _is_at(root: Path, known: str) -> bool:
    """Whether a folder holds the model of this id; a bare adapter, which is no model of its own, does not."""
    try:
        return model_id(root) == known
    except ModelError:
        return False


def _command(folder: Path) -> str:
    """Return the command that serves a model folder, of an adapter together with its base."""
    adapter = adapter_in(folder)
    if adapter is None:
        return f"vllm serve {folder}"
    settings = vllm_settings(folder)
    layers = f"--lora-target-modules {' '.join(settings['lora_target_modules'])} "
    return (
        f"vllm serve {base_folder(adapter)} --enable-lora --max-lora-rank {settings['max_lora_rank']} "
        f"{layers}--lora-modules {ADAPTER_NAME}={folder}"
    )


def _padded(drawn: Sequence[Sampled], count: int) -> list[Sampled]:
    """Return `count` results: these, and one without a text for each that the server left out."""
    missing = Generation.without_text("failed", f"the server returned {len(drawn)} of {count} texts")
    return [*drawn, *[Sampled(missing, False)] * (count - len(drawn))][:count]


def _price(prices: Mapping[str, float], answer: Mapping[str, Any]) -> float:
    usage = answer.get("usage") or {}
    return cost(usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0, prices)
