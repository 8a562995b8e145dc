"""Toolformer's exam: beginnings of texts to go on with, with tools and without, and plain texts to predict.

Here, and nowhere else, are true answers read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property, partial
from math import isnan
from typing import Any

from selfimprove_dagster.answers.canonical import answers_agree, canonical_answer
from selfimprove_dagster.conversation import Message, stored, written
from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.evaluation.exam import Exam, Exams, OpenedExam, OpenModel, Part
from selfimprove_dagster.experiment.opening import identity_of
from selfimprove_dagster.filters.rules import FAILED
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.records import content_hash
from selfimprove_dagster.language_model.base import LanguageModel, Progress, SamplingParameters, no_scores
from selfimprove_dagster.language_model.prompting import prompting_of
from selfimprove_dagster.methods.toolformer.files import HeldOutText, read_beginnings, read_plain_texts
from selfimprove_dagster.methods.toolformer.settings import ToolformerExperiment
from selfimprove_dagster.methods.toolformer.toolboxes import experiment_tools
from selfimprove_dagster.rows import Rejected
from selfimprove_dagster.seeds.files import Question
from selfimprove_dagster.tools.base import Context
from selfimprove_dagster.tools.calls import take_out
from selfimprove_dagster.tools.chat import ChatCall, chat_with_tools
from selfimprove_dagster.tools.toolbox import Toolbox
from selfimprove_dagster.tools.writing import (
    MadeCall,
    begun,
    generate_with_tools,
    opening_token,
    without_calls,
)

WITH_TOOLS, WITHOUT, PLAIN = "with_tools", "greedy", "plain"
CHAT = "chat_tools"
"""The mode in which a chat model may call tools in the format of its chat template."""

_ASKED = "Write what comes next in this text, and nothing else. You may use the tools.\n\n{}"


_PART = 256
"""Texts a shard of the exam: what a killed run loses. The answers do not depend on it."""


@dataclass(frozen=True)
class ToolExam(Exam):
    """Every beginning is put with tools and without; of plain texts the loss is measured.

    The base model, which no one taught to call, sits the part with tools as it is used: without. Beginnings are plain
    texts, also for a chat model, which is trained on texts. With `evaluation.chat_tools` every beginning is also put in
    a conversation, in which every model may call tools in the format of its chat template.
    """

    experiment: ToolformerExperiment
    beginnings: Sequence[HeldOutText]
    plain: Sequence[HeldOutText]
    open_tools: Callable[[], AbstractContextManager[Toolbox]]

    @property
    def parts(self) -> list[Part]:
        """The whole exam, mode by mode, in the order in which it is sat."""
        asked = [(WITH_TOOLS, self.beginnings), (WITHOUT, self.beginnings), (PLAIN, self.plain)]
        if self.experiment.evaluation.chat_tools:
            asked.append((CHAT, self.beginnings))
        return [
            Part(mode, texts[start : start + _PART], len(texts[start : start + _PART]))
            for mode, texts in asked
            for start in range(0, len(texts), _PART)
        ]

    @property
    def parameters(self) -> dict[str, Any]:
        """All that shapes the answers besides the model."""
        section = self.experiment.evaluation
        texts = [{**vars(one), "date": str(one.date)} for one in (*self.beginnings, *self.plain)]
        settings = section.model_dump(
            include={"likeliest", "most_calls", "max_tokens", "max_call_tokens", "stop"}
        )
        found = {"texts": content_hash({"all": texts}), "tools": self._versions, **settings}
        if section.chat_tools:
            asked = prompting_of(**self.experiment.model.prompting_options())
            found["chat_tools"] = {"prompt": _ASKED, "prompting": asked.parameters}
        return found

    @cached_property
    def _versions(self) -> dict[str, str]:
        with self.open_tools() as tools:
            return {name: tool.version for name, tool in tools.items()}

    @cached_property
    def _base_id(self) -> str:
        return identity_of(self.experiment.model)

    def sit_part(
        self, model: LanguageModel, part: Part, progress: Progress | None = None
    ) -> list[dict[str, Any]]:
        """The rows of `sit` that belong to one of the `parts`."""
        texts = [text for text in part.questions if isinstance(text, HeldOutText)]
        if part.mode == PLAIN:
            answers = self._predict(model, texts)
        elif part.mode == CHAT:
            answers = self._chat(model, texts)
        elif part.mode == WITH_TOOLS and model.model_id != self._base_id:
            answers = self._write_with_tools(model, texts)
        else:
            answers = self._write(model, texts)
        rows = [
            {
                "question": text.question,
                "source_file": text.source_file,
                "source_line": text.source_line,
                "difficulty": text.difficulty,
                "expected": text.answer,
                "mode": part.mode,
                **_NOTHING,
                **answer,
            }
            for text, answer in zip(texts, answers, strict=True)
        ]
        if progress:
            progress(len(rows), sum(row["tokens"] for row in rows))
        return rows

    @property
    def _parameters(self) -> SamplingParameters:
        section = self.experiment.evaluation
        return SamplingParameters(temperature=0.0, max_tokens=section.max_tokens, stop=tuple(section.stop))

    def _write(self, model: LanguageModel, texts: Sequence[HeldOutText]) -> Iterator[dict[str, Any]]:
        prompts = model.encode_many([text.question for text in texts])
        silent = without_calls(self._parameters, opening_token(model))
        drawn = model.generate(prompts, [[0]] * len(texts), silent)
        for text, (path,) in zip(texts, drawn, strict=True):
            answer = _answer(text, path.text)
            yield {"text": path.text, "tokens": path.tokens, **answer, "problem": path.problem}

    def _write_with_tools(
        self, model: LanguageModel, texts: Sequence[HeldOutText]
    ) -> Iterator[dict[str, Any]]:
        section = self.experiment.evaluation
        with self.open_tools() as tools:
            transcripts = generate_with_tools(
                model,
                [begun(model, text.question) for text in texts],
                tools,
                opening=opening_token(model),
                contexts=[Context(text.date) for text in texts],
                parameters=self._parameters,
                likeliest=section.likeliest,
                most_calls=section.most_calls,
                most_call_tokens=section.max_call_tokens,
            )
            for text, transcript in zip(texts, transcripts, strict=True):
                said = take_out(transcript.text, tools)[0]
                yield {
                    "text": transcript.text,
                    "calls": [_call(made) for made in transcript.calls],
                    "tokens": len(transcript.token_ids),
                    "problem": transcript.problem,
                    **_answer(text, said),
                }

    def _chat(self, model: LanguageModel, texts: Sequence[HeldOutText]) -> Iterator[dict[str, Any]]:
        section = self.experiment.evaluation
        with self.open_tools() as tools:
            transcripts = chat_with_tools(
                model,
                [stored([Message("user", _ASKED.format(text.question))]) for text in texts],
                tools,
                contexts=[Context(text.date) for text in texts],
                parameters=SamplingParameters(
                    temperature=0.0, max_tokens=section.max_tokens + section.max_call_tokens
                ),
                most_calls=section.most_calls,
            )
        for text, transcript in zip(texts, transcripts, strict=True):
            yield {
                "text": transcript.text,
                "calls": [_chat_call(made) for made in transcript.calls],
                "tokens": transcript.tokens,
                "problem": transcript.problem if transcript.finish_reason in FAILED else None,
                **_answer(text, transcript.text),
            }

    @staticmethod
    def _predict(model: LanguageModel, texts: Sequence[HeldOutText]) -> Iterator[dict[str, Any]]:
        ids = model.encode_continuations([text.question for text in texts])
        begin = model.encode("") or [model.end_token_id]
        for text, logprobs in zip(ids, model.score([begin] * len(ids), ids), strict=True):
            if any(map(isnan, logprobs)):
                yield {"tokens": 0, "problem": no_scores(model, len(begin) + len(text))}
            else:
                yield {"nats": -sum(logprobs), "tokens": len(logprobs)}


_NOTHING = dict.fromkeys(("predicted", "text", "correct", "calls", "nats"))


def _answer(text: HeldOutText, said: str) -> dict[str, Any]:
    assert text.answer is not None
    predicted = predicted_answer(text.answer, said)
    return {"predicted": predicted, "correct": is_predicted(text.answer, predicted)}


def _call(made: MadeCall) -> dict[str, Any]:
    return {
        "position": made.position,
        "written": made.written,
        "tool": made.call.tool if made.call else None,
        "arguments": made.call.arguments if made.call else None,
        "result": made.call.result if made.call else None,
        "problem": made.problem,
    }


def _chat_call(made: ChatCall) -> dict[str, Any]:
    """Return a call in a conversation; it has no position in a text."""
    return {
        "position": None,
        "written": written(made.call),
        "tool": made.call.name,
        "arguments": made.arguments,
        "result": made.result,
        "problem": made.problem,
    }


FIRST_WORDS = 5


_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def predicted_answer(expected: str, continuation: str) -> str | None:
    """What the continuation says where `expected` should be; None where it says nothing."""
    if _NUMBER.fullmatch(expected):
        found = _NUMBER.search(continuation)
        return canonical_answer(found.group()) if found else None
    return " ".join(continuation.split()[:FIRST_WORDS]) or None


def is_predicted(expected: str, predicted: str | None) -> bool:
    """Whether that is the expected answer, or for words holds it."""
    if predicted is None:
        return False
    if _NUMBER.fullmatch(expected):
        return answers_agree(predicted, expected)
    return re.search(rf"(?<!\w){re.escape(expected)}(?!\w)", predicted, re.IGNORECASE) is not None


def _open(
    home: Home, experiment: ToolformerExperiment, open_model: OpenModel, iteration: int | None
) -> OpenedExam:
    if experiment.evaluation.chat_tools and not prompting_of(**experiment.model.prompting_options()).chat:
        raise ExperimentError(
            f"evaluation.chat_tools: {experiment.model.path} is asked in plain text; name a model with a chat "
            "template, or omit evaluation.chat_tools"
        )
    beginnings, rejected = read_beginnings(experiment.evaluation)
    plain, unread = read_plain_texts(experiment.evaluation)
    tools = partial(experiment_tools, experiment, home, open_model)
    return OpenedExam(ToolExam(experiment, beginnings, plain, tools), [], [*rejected, *unread])


def _held_out(experiment: ToolformerExperiment) -> tuple[Sequence[Question], Sequence[Rejected]]:
    beginnings, plain = read_beginnings(experiment.evaluation), read_plain_texts(experiment.evaluation)
    return [*beginnings[0], *plain[0]], [*beginnings[1], *plain[1]]


EXAM = Exams(_open, _held_out)
