"""Use the models of providers with the OpenAI chat protocol, `/chat/completions`, which give no tokens.

Requests are sent through the OpenAI SDK, or through LiteLLM for providers with other interfaces. A provider answers in
text: it scores no given texts, and chooses among options by naming one of them. See `language_model.remote` for how
requests are sent, and `language_model.paid` for how answers are stored.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from math import exp, nan
from typing import TYPE_CHECKING, Any

from selfimprove_dagster.conversation import Message, Turn, merged, messages_of, row_of, tools_of
from selfimprove_dagster.errors import ModelError, first_line
from selfimprove_dagster.language_model.base import (
    FinishReason,
    Generation,
    Progress,
    SamplingParameters,
    Served,
    Usage,
)
from selfimprove_dagster.language_model.batches import BATCHED, Batches
from selfimprove_dagster.language_model.characters import CHARACTERS_PER_TOKEN, CharacterText
from selfimprove_dagster.language_model.notices import warn_once
from selfimprove_dagster.language_model.paid import Journal, cost
from selfimprove_dagster.language_model.provider import check_installed, provider_id, provider_of
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
from selfimprove_dagster.language_model.replies import Reply, read_call
from selfimprove_dagster.language_model.stopping import cut_after_thoughts
from selfimprove_dagster.language_model.structure import Structure
from selfimprove_dagster.language_model.tokens import check_contexts, check_options, check_sampling

if TYPE_CHECKING:
    from openai import AsyncOpenAI

_log = logging.getLogger(__name__)

ROUTE = "/chat/completions"

PROBE = "Reply with the word yes."
"""What the provider is asked when the model is opened."""

PROBE_TOKENS = 16

PROBE_SECONDS = 24 * 3600.0
"""Time for which what the provider can do is known without asking again."""

MOST_LIKELY = 20
"""Number of most likely first tokens that are requested when the model chooses."""

LEAST_MASS = 0.5
"""Probability that the options must have together at the first token; otherwise the written answer is read."""

_SEED_BITS = 31
"""Number of bits that every provider accepts in a seed."""

_TOO_LONG = ("context_length_exceeded", "maximum context length", "prompt is too long")

_LIKELY: dict[str, Any] = {"logprobs": True, "top_logprobs": MOST_LIKELY}

_PROMISE = (
    "may still answer otherwise when it is asked again: a resumed run keeps the answers that it has, and a replay is "
    "not exact"
)

_NOTHING: dict[str, Any] = {}

_VERSIONS = ("model", "system_fingerprint")
"""The fields of an answer that name the versions of the model and of the system that ran it."""

_CHOOSE = "Reply with exactly one of the following, and nothing else:"


class ChatLanguageModel(CharacterText):
    """A model of a provider; implements `base.LanguageModel` as far as providers can."""

    def __init__(
        self,
        path: str,
        *,
        url: str | Sequence[str] | None,
        key_variable: str = "OPENAI_API_KEY",
        send_seeds: bool = True,
        api: str = "openai",
        snapshot: str = "",
        request: Mapping[str, Any] | None = None,
        answers: int = 1,
        prices: Mapping[str, float] | None = None,
        keep_answers: bool = True,
        batch: Mapping[str, Any] | None = None,
        **sending: Any,
    ) -> None:
        """Connect to the provider of the model that it calls `path`, and find out with one request what it can do.

        `api`: `openai` or `litellm`. `request`: fields of every request; None removes one that is sent otherwise.
        `answers`: how often the model is asked to choose among options. `snapshot`: see `provider.provider_id`.
        `prices`: those of `paid.cost`. `keep_answers`: False to ask again what was answered before. `batch`:
        `poll` and `most` of `Batches`, to send requests in batches. `sending`: see `Remote`. Raises ModelError if the
        provider cannot be reached or refuses the request.
        """
        check_installed(api)
        self._api, self._name = api, path
        self._key_variable, self._key = key_variable, os.environ.get(key_variable, "")
        self._send_seeds, self._answers, self._prices = send_seeds, answers, prices
        self._fields = dict(request or {})
        self.model_id = provider_id(
            path, url=url, api=api, snapshot=snapshot, request=request, answers=answers
        )
        provider = provider_of(url, api)
        self.engine = f"chat completions, {provider}, {path}"
        journal = Journal.of_home() if keep_answers else None
        self._remote = Remote.of(
            url or "", self._connect, self.model_id, journal=journal, price=self._price, **sending
        )
        self._shown = f"{path} of {provider}"
        if batch is not None:
            server = self._remote.servers[0]
            self._remote.batches = Batches(
                lambda: self._client(server),
                lambda error: self._refined(server, error),
                lambda status, text: self._meaning(server, status, text, {}),
                f"/v1{ROUTE}",
                self._shown,
                attempts=self._remote.attempts,
                **batch,
            )
        self._limit, self._gives_logprobs, self._gives_likely = "max_tokens", True, True
        self._find_abilities()
        self.cannot_score = f"{self._shown} does not score given texts, as no provider does"
        self.chooses = self._how_it_chooses()
        warn_once(_log, f"{self.cannot_score}. {self.chooses}")

    @staticmethod
    def promised(options: Mapping[str, Any]) -> str:
        """Return what the engine with these options promises; see `language_model.promise_of`."""
        seeds = "with the same seeds" if options.get("send_seeds", True) else "without seeds"
        return f"a provider is asked {seeds}, and {_PROMISE}"

    @property
    def promise(self) -> str:
        """Return what a repeated run can expect."""
        seeds = "with the same seeds" if self._send_seeds else "without seeds"
        return f"{self._shown} is asked {seeds}, and {_PROMISE}"

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        parameters: SamplingParameters,
        progress: Progress | None = None,
    ) -> list[list[Generation]]:
        """Sample `len(seeds[i])` continuations of `prompts[i]`, with one request each.

        Equal prompts with equal seeds are asked once. Stop strings are not sent: a text is cut at them here, after its
        thoughts. Raises ModelError for banned tokens, and for a structure that is a regular expression.
        """
        check_sampling(prompts, seeds, parameters)
        if parameters.banned:
            raise self._cannot("leave out tokens")
        settings: dict[str, Any] = {"temperature": parameters.temperature}
        settings |= {"top_p": parameters.top_p} if parameters.top_p < 1 else {}
        settings |= {"top_k": parameters.top_k} if parameters.top_k else {}
        settings |= _response_format(parameters.structure) if parameters.structure else {}
        settings |= {"logprobs": True} if self._gives_logprobs else {}
        asked = [
            [self._request(messages, parameters.max_tokens, seed, tools=tools, **settings) for seed in row]
            for (messages, tools), row in zip(map(self._messages, prompts), seeds, strict=True)
        ]
        keys = [[self._remote.key_of(request) for request in row] for row in asked]
        requests = {
            key: request for row in zip(keys, asked, strict=True) for key, request in zip(*row, strict=True)
        }

        def read(answer: Mapping[str, Any]) -> list[Generation]:
            path = self._generation(answer, parameters.stop)
            if progress is not None:
                progress(1, path.tokens)
            return [path]

        def failed(error: Unanswered, request: Request) -> list[Generation]:
            if progress is not None:
                progress(1, 0)
            return [error.result]

        answers = self._remote.run(
            [*requests.values()], read, failed, self._choice, self._shortest, none_failed
        )
        drawn = {key: path for key, (path,) in zip(requests, answers, strict=True)}
        repeated = sum(map(len, keys)) - len(drawn)
        if progress is not None and repeated:
            progress(repeated, 0)
        return [[drawn[key] for key in row] for row in keys]

    def option_probabilities(
        self, contexts: Sequence[Sequence[int]], options: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Return the probability of each option per context, from the options that the model names.

        The model is asked to reply with one of them, once at temperature 0, or several times at temperature 1; then the
        probability is the share of the replies. If the provider gives the most likely first tokens and these are
        options, theirs are the probabilities. An option counts for each one that begins it, as everywhere. They are NaN
        where no reply names an option.
        """
        check_options(options)
        texts = [self.decode(option) for option in options]
        names = [_bare(text) for text in texts]
        count = 1 if self._gives_likely else self._answers
        likely = _LIKELY if self._gives_likely else _NOTHING
        temperature = 0.0 if count == 1 else 1.0
        longest = max(map(len, names)) + PROBE_TOKENS
        requests = [
            self._request(
                _with_instruction(messages, names), longest, number, temperature=temperature, **likely
            )
            for messages, _ in map(self._messages, contexts)
            for number in range(count)
        ]
        found = self._remote.run(
            requests,
            lambda answer: self._chosen(answer, names),
            lambda error, request: None,
            self._choice,
            self._shortest,
            lambda chosen: chosen is not None,
        )
        rows = [found[start : start + count] for start in range(0, len(found), count)]
        return [_inclusive(_mean(row, len(names)), texts) for row in rows]

    def score(
        self, contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Raise ModelError unless there is nothing to score: providers do not score given texts."""
        check_contexts(contexts, continuations)
        if any(map(len, continuations)):
            raise ModelError(self.cannot_score)
        return [[] for _ in contexts]

    def next_token_probability(self, sequences: Sequence[Sequence[int]], token_id: int) -> list[list[float]]:
        """Raise ModelError: providers do not give probabilities of given tokens."""
        raise ModelError(self.cannot_score)

    def among_likeliest(
        self,
        contexts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        token_id: int,
        most: int,
    ) -> list[list[bool]]:
        """Raise ModelError: providers do not give probabilities of given tokens."""
        raise ModelError(self.cannot_score)

    def close(self) -> None:
        """Do nothing, since the model is at the provider."""

    # ---- requests --------------------------------------------------------------------------------------

    def _messages(self, prompt: Sequence[int]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the messages of a prompt in the form of the protocol, and the tools that it shows."""
        text = self.decode(prompt)
        if not self.prompting.chat:
            return [{"role": "user", "content": text}], []
        turns = messages_of(text)
        system = [self.prompting.system] if self.prompting.system else []
        system += [one.content for one in turns if one.role == "system"]
        rest: list[Turn] = [one for one in turns if one.role != "system"]
        if system:
            rest = [Message("system", "\n\n".join(system)), *rest]
        return _protocol_rows(rest), tools_of(text)

    def _request(
        self,
        messages: Sequence[Mapping[str, Any]],
        max_tokens: int,
        seed: int | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        **settings: Any,
    ) -> Request:
        body = {"model": self._name, "messages": list(messages), self._limit: max_tokens, **settings}
        if tools:
            body["tools"] = list(tools)
        if seed is not None and self._send_seeds:
            body["seed"] = seed % 2**_SEED_BITS
        sent = {name: value for name, value in {**body, **self._fields}.items() if value is not None}
        characters = sum(len(str(message.get("content"))) for message in messages)
        tokens = characters // CHARACTERS_PER_TOKEN + max_tokens
        return Request(sent, () if seed is None else (seed,), tokens, route=ROUTE)

    def _shortest(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the request with a short prompt, which is otherwise equal."""
        return {**body, "messages": [{"role": "user", "content": PROBE}]}

    def _find_abilities(self) -> None:
        """Find out which field limits the answer, and whether log-probabilities are given."""
        key = self._remote.key_of(Request({"probe": True, "fields": self._fields}, route=ROUTE))
        journal = Journal.of_home()
        stored = journal.find(key, PROBE_SECONDS)
        known = stored.answer if stored else self._probed()
        if stored is None:
            journal.add(key, known)
        self._limit = known["limit"]
        self._gives_logprobs, self._gives_likely = known["logprobs"], known["likely"]

    def _probed(self) -> dict[str, Any]:
        asking = replace(self._remote, journal=None)
        refusals: list[Unanswered] = []
        for limit, extra in (
            ("max_tokens", _LIKELY),
            ("max_completion_tokens", _LIKELY),
            ("max_tokens", _NOTHING),
            ("max_completion_tokens", _NOTHING),
        ):
            self._limit = limit
            asked = self._request(
                [{"role": "user", "content": PROBE}], PROBE_TOKENS, 0, temperature=0.7, **extra
            )
            try:
                (choice,) = asking.run([asked], self._choice)
            except Unanswered as error:
                refusals.append(error)
                if error.result.finish_reason != "refused":
                    raise
                continue
            given = _token_logprobs(choice)
            likely = bool(given) and bool(given[0].get("top_logprobs"))
            return {"limit": limit, "logprobs": bool(given), "likely": likely}
        raise ModelError(
            f"{refusals[-2]}. If it does not know a field of the request, set that field in model.chat.request, to "
            "null to leave it out"
        )

    def _how_it_chooses(self) -> str:
        if self._gives_likely:
            return "As a judge it is asked for the option, whose log-probability the provider gives"
        times = "once, at temperature 0" if self._answers == 1 else f"{self._answers} times, at temperature 1"
        return (
            "The provider gives no log-probabilities of options: as a judge it is asked to write the option, "
            f"{times} (model.chat.answers)"
        )

    def _connect(self, server: Server) -> AbstractAsyncContextManager[Send]:
        return self._through_litellm(server) if self._api == "litellm" else self._through_sdk(server)

    def _client(self, server: Server) -> AsyncOpenAI:
        from openai import AsyncOpenAI

        return AsyncOpenAI(api_key=self._key or "none", base_url=server.url, max_retries=0, timeout=None)

    @asynccontextmanager
    async def _through_sdk(self, server: Server) -> AsyncIterator[Send]:
        import httpx2
        from openai import OpenAIError

        async with self._client(server) as client:

            async def send(request: Request) -> dict[str, Any]:
                # Only where an answer is not meant to be a new one, as it is in a replay.
                repeated = {"Idempotency-Key": self._remote.key_of(request)} if self._remote.journal else {}
                try:
                    response = await client.post(
                        request.route,
                        body=request.body,
                        cast_to=httpx2.Response,
                        options={"headers": repeated},
                    )
                except OpenAIError as error:
                    raise self._refined(server, error) from None
                return _dated(json_object(response.content))

            yield send

    @asynccontextmanager
    async def _through_litellm(self, server: Server) -> AsyncIterator[Send]:
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # it would fetch a list of prices
        import litellm

        litellm.suppress_debug_info, litellm.telemetry = True, False

        async def send(request: Request) -> dict[str, Any]:
            try:
                answer = await litellm.acompletion(
                    **(request.body or {}),
                    api_key=self._key or None,
                    api_base=server.url or None,
                    max_retries=0,
                    num_retries=0,
                    timeout=self._remote.deadline,
                )
            except Exception as error:  # LiteLLM's own errors have no common class
                raise self._refined(server, error) from None
            return _dated(answer.model_dump(mode="json"))

        yield send

    def _refined(self, server: Server, error: Exception) -> Exception:
        """Return what an error of the SDK means for its request."""
        from openai import APIConnectionError, APIStatusError

        if isinstance(error, APIConnectionError):
            cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
            return TryAgain(f"{type(cause).__name__}: {first_line(cause)}")
        if not isinstance(error, APIStatusError):
            return ModelError(
                f"{self._shown} cannot be asked: {first_line(error).replace(self._key or '***', '***')}"
            )
        response = getattr(error, "response", None)  # LiteLLM raises some errors before it asks
        text = (response.text if response is not None else "") or str(error)
        headers = response.headers if response is not None else {}
        return self._meaning(server, error.status_code, text, headers)

    def _meaning(self, server: Server, status: int, text: str, headers: Mapping[str, str]) -> Exception:
        """Return what an answer with a status that is not 200 means for its request."""
        if status == 401:
            found = "is read from" if self._key else "is missing: set"
            text = f"{text} (the key {found} the environment variable {self._key_variable})"
        try:
            check_status(server, status, text, headers, self._key)
        except Unanswered as refused:
            if any(mark in text for mark in _TOO_LONG):
                problem = str(refused.result.problem).partition(": ")[2]
                refused.result = Generation.without_text("too_long", problem)
            return refused
        except (TryAgain, ModelError) as found:
            return found
        return ModelError(f"{self._shown} answered with status {status}")

    # ---- answers ---------------------------------------------------------------------------------------

    def _price(self, answer: Mapping[str, Any]) -> float:
        usage = _usage(answer)
        in_batch = bool(answer.get(BATCHED))
        return cost(usage.prompt, usage.completion, self._prices, in_batch) if usage else 0.0

    def _choice(self, answer: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the one completion of an answer. Raises Unanswered if there is none."""
        choices = answer.get("choices") or []
        choice = choices[0] if isinstance(choices, list) and choices else None
        if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
            raise Unanswered(
                f"{self._shown} answered without a message: does it speak {ROUTE}?",
                Generation.without_text("failed", "the provider answered without a message"),
            )
        return choice

    def _generation(self, answer: Mapping[str, Any], stop: Sequence[str]) -> Generation:
        choice = self._choice(answer)
        message = choice["message"]
        usage, served = _usage(answer), _served(answer)
        if choice.get("finish_reason") == "content_filter":
            problem = "the provider's content filter left out the text"
            return replace(Generation.without_text("refused", problem), usage=usage, served=served)
        if message.get("refusal") and not message.get("content"):
            problem = f"the model refused: {first_line(message['refusal'])[:200]}"
            return replace(Generation.without_text("refused", problem), usage=usage, served=served)
        calls, text = message.get("tool_calls") or [], message.get("content")
        if text is None and (calls or message.get("reasoning_content")):
            text = ""
        if not isinstance(text, str):
            return replace(Generation.without_text("failed", "the provider returned no text"), usage=usage)
        ended = cut_after_thoughts(text, stop, self.prompting.thinking)
        reason: FinishReason = (
            "length" if choice.get("finish_reason") == "length" and ended == text else "stop"
        )
        said = self.prompting.thinking.said(ended)
        logprobs = [float(one["logprob"]) for one in _token_logprobs(choice)]
        return Generation(
            token_ids=[],
            logprobs=logprobs,
            text=said,
            finish_reason=reason,
            usage=usage,
            served=served,
            reply=Reply(said, tuple(map(read_call, calls))),
        )

    def _chosen(self, answer: Mapping[str, Any], names: Sequence[str]) -> list[float] | None:
        """Return the probability of each option by one answer; None if it names none."""
        choice = self._choice(answer)
        if found := _likely_options(choice, names):
            return found
        text = choice["message"].get("content")
        place = named(self.prompting.thinking.said(text), names) if isinstance(text, str) else None
        return None if place is None else [float(place == index) for index in range(len(names))]


def named(text: str, names: Sequence[str]) -> int | None:
    """Return the index of the only option that a text names as whole words; None without one, or with several."""
    said = _bare(text).casefold()
    folded = [name.casefold() for name in names]
    if said in folded:
        return folded.index(said)
    left, mentioned = text.casefold(), []
    for name, index in sorted(
        ((name, index) for index, name in enumerate(folded)), key=lambda one: -len(one[0])
    ):
        left, count = re.subn(rf"(?<!\w){re.escape(name)}(?!\w)", " ", left)
        mentioned += [index] if count else []
    return mentioned[0] if len(mentioned) == 1 else None


def _bare(text: str) -> str:
    """Return a text without the spaces, brackets, quotes and full stops around it."""
    return text.strip().strip("()[]{}\"'`*.:;, \n") or text.strip()


def _likely_options(choice: Mapping[str, Any], names: Sequence[str]) -> list[float] | None:
    """Return the probabilities of options among the first token's most likely ones; None if they have too little."""
    tokens = _token_logprobs(choice)
    likely = tokens[0].get("top_logprobs") or [] if tokens else []
    masses: Counter[str] = Counter()
    for one in likely:
        masses[_bare(str(one["token"])).casefold()] += exp(float(one["logprob"]))  # type: ignore[assignment]
    found = [float(masses[name.casefold()]) for name in names]
    return [one / sum(found) for one in found] if sum(found) >= LEAST_MASS else None


def _mean(rows: Sequence[list[float] | None], options: int) -> list[float]:
    """Return the mean of the answers that name an option; NaN without one."""
    read = [row for row in rows if row is not None]
    if not read:
        return [nan] * options
    return [sum(row[index] for row in read) / len(read) for index in range(options)]


def _inclusive(probabilities: Sequence[float], texts: Sequence[str]) -> list[float]:
    """Return probabilities in which an option includes those that it begins, summing to 1."""
    found = [
        sum(one for one, other in zip(probabilities, texts, strict=True) if other.startswith(text))
        for text in texts
    ]
    return [one / sum(found) for one in found]


def _with_instruction(messages: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the messages with the request to reply with one of the options."""
    asked = "\n".join([_CHOOSE, *(f"- {name}" for name in names)])
    *before, last = messages
    if last["role"] != "user":
        return [*map(dict, messages), {"role": "user", "content": asked}]
    return [*map(dict, before), {**last, "content": f"{last['content']}\n\n{asked}"}]


def _protocol_rows(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    """Return messages in the form of the protocol: calls have ids, and their arguments are JSON."""
    rows = [row_of(one) for one in merged(turns)]
    calls = [call for row in rows for call in row.get("tool_calls", ())]
    for number, call in enumerate(calls):
        call["id"] = f"call_{number}"
        call["function"]["arguments"] = json.dumps(call["function"]["arguments"], ensure_ascii=False)
    for number, row in enumerate(row for row in rows if row["role"] == "tool"):
        row["tool_call_id"] = f"call_{number}"
    return rows


def _response_format(structure: Structure) -> dict[str, Any]:
    """Return the field that asks for a structure. Raises ModelError for a regular expression."""
    if structure.json_schema is None:
        raise ModelError(
            "prompts.structure has a regular expression, which providers do not know: give a json_schema, or use "
            "another engine"
        )
    schema = structure.schema
    described = {"name": "answer", "schema": schema, "strict": _is_strict(schema)}
    return {"response_format": {"type": "json_schema", "json_schema": described}}


def _is_strict(schema: Any) -> bool:
    """Return whether providers can enforce a schema: each object requires all of its fields, and no others."""
    if isinstance(schema, list):
        return all(map(_is_strict, schema))
    if not isinstance(schema, dict):
        return True
    if schema.get("type") == "object" or "properties" in schema:
        fields = {*schema.get("properties", {})}
        if schema.get("additionalProperties") is not False or {*schema.get("required", [])} != fields:
            return False
    return all(map(_is_strict, schema.values()))


def _token_logprobs(choice: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what a completion says of each of its tokens; nothing if the provider gives no log-probabilities."""
    content = (choice.get("logprobs") or {}).get("content") or []
    return content if all(isinstance(one.get("logprob"), int | float) for one in content) else []


def _usage(answer: Mapping[str, Any]) -> Usage | None:
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return None
    return Usage(int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0))


def _dated(answer: dict[str, Any]) -> dict[str, Any]:
    """Return an answer with the time when it was created, by the clock of this machine if it does not say."""
    return {**answer, "created": answer.get("created") or int(time.time())}


def _served(answer: Mapping[str, Any]) -> Served:
    at = datetime.fromtimestamp(float(answer["created"]), UTC).isoformat(timespec="seconds")
    model, fingerprint = (str(answer[name]) if answer.get(name) else None for name in _VERSIONS)
    return Served(model, fingerprint, at)
