"""Sharded work of a model: committed shard by shard, resumed where a killed run stopped."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import polars as pl

from selfimprove_dagster.lake import PartitionWriter, Spent
from selfimprove_dagster.language_model.base import Generation, LanguageModel, SamplingParameters
from selfimprove_dagster.loop import UNLIMITED, Allowance
from selfimprove_dagster.lots import seed_of
from selfimprove_dagster.methods.adaptive import is_decided
from selfimprove_dagster.methods.answers import extract_answers
from selfimprove_dagster.methods.lmsi import build_prompt
from selfimprove_dagster.progress import ProgressReport
from selfimprove_dagster.records import Draft, Parent, Row, build_records
from selfimprove_dagster.sections import AdaptiveSection, ModelSection, SamplingSection
from selfimprove_dagster.seeds import DemonstrationRecord

Item = TypeVar("Item")
Work = Callable[[Sequence[Item], ProgressReport], list[Draft]]


def sampling_parameters(section: SamplingSection, *, improved: bool) -> SamplingParameters:
    """The experiment's sampling with the base model, or with an improved one."""
    return SamplingParameters(
        temperature=section.temperature_improved if improved else section.temperature,
        top_p=section.top_p,
        top_k=section.top_k,
        max_tokens=section.max_tokens,
        stop=tuple(section.stop),
    )


def recorded_options(section: ModelSection) -> dict[str, Any]:
    """The engine options kept with the paths: all but a server's address, which may hold a password."""
    return {name: value for name, value in section.engine_options().items() if name != "url"}


def generate_paths(
    writer: PartitionWriter,
    model: LanguageModel,
    questions: pl.DataFrame,
    section: SamplingSection,
    parameters: SamplingParameters,
    demonstrations: Sequence[DemonstrationRecord],
    *,
    seeds_from: Sequence[str | int],
    log: Callable[[str], None],
    allowance: Allowance = UNLIMITED,
) -> Spent:
    """Write up to `section.paths` paths for each question (columns `id, question`), shard by shard.

    A path's seed follows from `seeds_from`, its question's text and its sample index, so a replay needs
    nothing but the row. Shards that an earlier attempt left are not drawn again. Returns what all of them
    took, whichever attempt drew them. Raises BudgetSpent before a shard that `allowance` has nothing for.
    """
    shown = demonstrations if section.prompt_format.startswith("few_shot") else ()

    def draw(shard: Sequence[Row], report: ProgressReport) -> list[Draft]:
        return _draw(model, pl.DataFrame(shard), section, parameters, shown, seeds_from, report)

    return in_shards(
        writer,
        questions.select("id", "question").rows(named=True),
        draw,
        size=section.shard_questions,
        unit="paths",
        each=lambda question: section.paths,
        log=log,
        allowance=allowance,
    )


def in_shards(
    writer: PartitionWriter,
    items: Sequence[Item],
    work: Work[Item],
    *,
    size: int,
    unit: str,
    log: Callable[[str], None],
    each: Callable[[Item], int] = lambda item: 1,
    allowance: Allowance = UNLIMITED,
) -> Spent:
    """Write what `work` makes of the items, `size` of them a shard; `work` reports `each` units of an item.

    Shards that an earlier attempt left are not made again. Returns what all of them took, whichever attempt
    made them. Raises BudgetSpent before a shard that `allowance` has nothing for.
    """
    shards = [items[start : start + size] for start in range(0, len(items), size)]
    done, spent = writer.committed_shards, writer.spent
    units = [sum(map(each, shard)) for shard in shards]
    finished = sum(units[index] for index in done)
    with ProgressReport(writer.schema.name, sum(units), unit, log, finished) as report:
        for index, shard in enumerate(shards):
            if index in done:
                continue
            allowance.check(spent, report.so_far)
            started, tokens = time.monotonic(), report.tokens
            drafts = work(shard, report)
            took = Spent(report.tokens - tokens, round(time.monotonic() - started, 3))
            writer.write_shard(index, build_records(writer.schema, drafts, writer.activity), spent=took)
            spent += took
    return spent


class Advancing(Protocol):
    """What is told of progress: a ProgressReport, or a part of one."""

    def advance(self, units: int, tokens: int = 0) -> None:
        """So many more units are done, and so many more tokens drawn."""


@dataclass(frozen=True)
class Request:
    """Completions to draw: the prompt, what their records say besides, and what these were made from.

    The completions' seeds follow from `key`. `token_ids` are the prompt's where encoding its text would not
    give them.
    """

    key: str
    prompt: str
    content: Mapping[str, Any]
    parents: Sequence[Parent]
    token_ids: Sequence[int] | None = None
    samples: int = 1


def completer(
    model: LanguageModel,
    parameters: SamplingParameters,
    seeds_from: Sequence[str | int],
    read: Callable[[Generation], Mapping[str, Any]] = lambda drawn: {},
) -> Callable[[Sequence[Request], Advancing], list[Draft]]:
    """Work for `in_shards`: draws the completions of requests; `read` adds columns that follow from one."""

    def draw(shard: Sequence[Request], report: Advancing) -> list[Draft]:
        encoded = iter(model.encode_many([one.prompt for one in shard if not one.token_ids]))
        prompts = [request.token_ids or next(encoded) for request in shard]
        seeds = [
            [
                seed_of(*seeds_from, request.key, *([sample] if sample else []))
                for sample in range(request.samples)
            ]
            for request in shard
        ]
        drawn = model.generate(prompts, seeds, parameters, progress=report.advance)
        return [
            Draft(
                content={
                    **request.content,
                    "prompt": request.prompt,
                    "prompt_token_ids": ids,
                    "token_ids": path.token_ids,
                    "text": path.text,
                    "finish_reason": path.finish_reason,
                    "seed": seed,
                    **read(path),
                },
                parents=list(request.parents),
                measures={"logprobs": path.logprobs},
                sample_index=sample,
            )
            for request, ids, own_seeds, paths in zip(shard, prompts, seeds, drawn, strict=True)
            for sample, (seed, path) in enumerate(zip(own_seeds, paths, strict=True))
        ]

    return draw


def _draw(
    model: LanguageModel,
    questions: pl.DataFrame,
    section: SamplingSection,
    parameters: SamplingParameters,
    demonstrations: Sequence[DemonstrationRecord],
    seeds_from: Sequence[str | int],
    report: ProgressReport,
) -> list[Draft]:
    texts = questions["question"].to_list()
    prompts = [build_prompt(text, section.prompt_format, demonstrations) for text in texts]
    token_ids = model.encode_many(prompts)
    seeds = [[seed_of(*seeds_from, text, sample) for sample in range(section.paths)] for text in texts]
    drawn: list[list[Generation]] = [[] for _ in texts]
    undecided = list(range(len(texts)))
    step = section.adaptive.step if section.adaptive else section.paths
    for start in range(0, section.paths, step):
        batches = model.generate(
            [token_ids[index] for index in undecided],
            [seeds[index][start : start + step] for index in undecided],
            parameters,
            progress=report.advance,
        )
        for index, batch in zip(undecided, batches, strict=True):
            drawn[index] += batch
        if section.adaptive:
            undecided = _undecided(drawn, undecided, section.paths, section.adaptive)
    # Paths that need not be drawn count as done.
    report.advance(sum(section.paths - len(paths) for paths in drawn))
    shown = [Parent(example.id, "demonstration") for example in demonstrations]
    return [
        Draft(
            content={
                "question_id": question_id,
                "prompt_format": section.prompt_format,
                "prompt": prompt,
                "prompt_token_ids": ids,
                "token_ids": path.token_ids,
                "text": path.text,
                "finish_reason": path.finish_reason,
                "seed": seed,
            },
            parents=[Parent(question_id, "prompt"), *shown],
            measures={"logprobs": path.logprobs},
            sample_index=sample,
        )
        for question_id, prompt, ids, row_seeds, paths in zip(
            questions["id"], prompts, token_ids, seeds, drawn, strict=True
        )
        for sample, (seed, path) in enumerate(zip(row_seeds, paths, strict=False))
    ]


def _undecided(
    drawn: Sequence[Sequence[Generation]], open_questions: Sequence[int], most: int, adaptive: AdaptiveSection
) -> list[int]:
    """Those of the open questions whose vote the paths drawn so far do not decide."""
    texts = [path.text for index in open_questions for path in drawn[index]]
    answers = iter(extract_answers(pl.Series(texts, dtype=pl.String)).to_list())
    votes = {index: [next(answers) for _ in drawn[index]] for index in open_questions}
    return [
        index
        for index, cast in votes.items()
        if not is_decided(cast, most, adaptive.confidence, adaptive.least_gain)
    ]
