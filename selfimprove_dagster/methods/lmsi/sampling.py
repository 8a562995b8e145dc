"""Paths of questions, and the demonstrations that their prompts show."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.answers.answers import extract_answers
from selfimprove_dagster.answers.languages import Conventions
from selfimprove_dagster.errors import SeedFileError
from selfimprove_dagster.home.imports import CODE_VERSION
from selfimprove_dagster.lake.disk import file_checksum
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest, PartitionWriter, Spent
from selfimprove_dagster.lake.records import Activity, Draft, Parent, build_records
from selfimprove_dagster.language_model.base import Generation, LanguageModel, SamplingParameters
from selfimprove_dagster.lots import seed_of
from selfimprove_dagster.method import Ask
from selfimprove_dagster.methods.lmsi.adaptive import is_decided
from selfimprove_dagster.methods.lmsi.settings import LmsiExperiment, SamplingSection
from selfimprove_dagster.methods.lmsi.tables import DEMONSTRATIONS
from selfimprove_dagster.prompts import Prompts
from selfimprove_dagster.rows import Unreadable, file_name, read_rows, text_field
from selfimprove_dagster.table import Row
from selfimprove_dagster.work.budget import UNLIMITED, Allowance
from selfimprove_dagster.work.shards import Advancing, Shard, in_shards


def sampling_parameters(section: SamplingSection, prompts: Prompts, *, improved: bool) -> SamplingParameters:
    """The experiment's sampling with the base model, or with an improved one."""
    return SamplingParameters(
        temperature=section.temperature_improved if improved else section.temperature,
        top_p=section.top_p,
        top_k=section.top_k,
        max_tokens=section.max_tokens,
        stop=(*section.stop, *prompts.stops(section.prompt_format)),
        structure=prompts.structure(section.prompt_format),
    )


def asks(experiment: LmsiExperiment, prompts: Prompts) -> Iterator[Ask]:
    """The prompt of a path before any question. Raises SeedFileError for a wrong file of demonstrations."""
    section, shown = experiment.sampling, experiment.demonstrations
    few_shot = section.prompt_format.startswith("few_shot")
    examples = read_demonstrations(shown.file, shown.count) if few_shot else []
    yield Ask(
        "sampling.max_tokens",
        prompts.ask(section.prompt_format, question="", demonstrations=examples),
        section.max_tokens,
        sampling_parameters(section, prompts, improved=False).stop,
        [f"{one.reasoning} The answer is {one.answer}." for one in examples],
    )


def draw_paths(
    shard: Shard[LmsiExperiment, Row], *, improved: bool, demonstrations: Sequence[Mapping[str, str]]
) -> list[Draft]:
    """Up to `sampling.paths` paths for each question (`id`, `question`).

    `improved`: the generator is a promoted checkpoint. A path's seed follows from the seed of the experiment, the
    iteration, its question's text and its sample index, so that a replay needs nothing but the row.
    """
    model, section = shard.model, shard.experiment.sampling
    parameters = sampling_parameters(section, shard.prompts, improved=improved)
    shown = [DemonstrationRecord(**one) for one in demonstrations]
    if not section.prompt_format.startswith("few_shot"):
        shown = []
    texts = [row["question"] for row in shard.items]
    asked = shard.prompts
    prompts = [asked.ask(section.prompt_format, question=text, demonstrations=shown) for text in texts]
    token_ids = model.encode_prompts(prompts)
    seeds = [[seed_of(*shard.seeds_from, text, sample) for sample in range(section.paths)] for text in texts]
    drawn: list[list[Generation]] = [[] for _ in texts]
    undecided = list(range(len(texts)))
    step = section.adaptive.step if section.adaptive else section.paths
    for start in range(0, section.paths, step):
        batches = model.generate(
            [token_ids[index] for index in undecided],
            [seeds[index][start : start + step] for index in undecided],
            parameters,
            progress=shard.report.advance,
        )
        for index, batch in zip(undecided, batches, strict=True):
            drawn[index] += batch
        if section.adaptive:
            undecided = _undecided(drawn, undecided, section, shard.experiment.conventions)
    # Paths that need not be drawn count as done.
    shard.report.advance(sum(section.paths - len(paths) for paths in drawn))
    examples = [Parent(example.id, "demonstration") for example in shown]
    return [
        Draft(
            content={
                "question_id": row["id"],
                "prompt_format": section.prompt_format,
                "prompt": prompt,
                "prompt_token_ids": ids,
                "token_ids": path.token_ids,
                "text": path.text,
                "finish_reason": path.finish_reason,
                "seed": seed,
            },
            parents=[Parent(row["id"], "prompt"), *examples],
            measures=path.measures,
            sample_index=sample,
        )
        for row, prompt, ids, row_seeds, paths in zip(
            shard.items, prompts, token_ids, seeds, drawn, strict=True
        )
        for sample, (seed, path) in enumerate(zip(row_seeds, paths, strict=False))
    ]


def generate_paths(
    writer: PartitionWriter,
    model: LanguageModel,
    questions: pl.DataFrame,
    experiment: LmsiExperiment,
    *,
    improved: bool = False,
    demonstrations: Sequence[DemonstrationRecord] = (),
    log: Callable[[str], None] = lambda line: None,
    allowance: Allowance = UNLIMITED,
) -> Spent:
    """Write the paths of questions (`id, question`) as a stage would, for pilots and measurements.

    Returns what all shards took, whichever attempt drew them. Raises BudgetSpent before a shard that `allowance` has
    nothing for.
    """
    section, shown = experiment.sampling, [vars(one) for one in demonstrations]
    prompts = registry.prompts(experiment, model.prompting)

    def draw(rows: Sequence[Row], report: Advancing) -> list[Draft]:
        shard = Shard(rows, experiment, 0, writer.activity, report, model, prompts)
        return draw_paths(shard, improved=improved, demonstrations=shown)

    return in_shards(
        writer,
        questions.select("id", "question").rows(named=True),
        draw,
        size=section.shard_questions,
        unit="paths",
        each=section.paths,
        log=log,
        allowance=allowance,
    )


def _undecided(
    drawn: Sequence[Sequence[Generation]],
    open_questions: Sequence[int],
    section: SamplingSection,
    conventions: Conventions,
) -> list[int]:
    """Those of the open questions whose vote the paths drawn so far do not decide."""
    texts = [path.text for index in open_questions for path in drawn[index]]
    answers = iter(extract_answers(pl.Series(texts, dtype=pl.String), conventions).to_list())
    adaptive = section.adaptive
    votes = {index: [next(answers) for _ in drawn[index]] for index in open_questions}
    return [
        index
        for index, cast in votes.items()
        if adaptive and not is_decided(cast, section.paths, adaptive.confidence, adaptive.least_gain)
    ]


@dataclass(frozen=True)
class DemonstrationRecord:
    """A worked example with the id of its record in the lake."""

    id: str
    question: str
    reasoning: str
    answer: str


@dataclass(frozen=True)
class Demonstration:
    """A worked example for few-shot prompts."""

    question: str
    reasoning: str
    answer: str
    source_file: str
    source_line: int


def read_demonstrations(file: str, count: int) -> list[Demonstration]:
    """The first `count` worked examples of a JSON Lines file. Raises SeedFileError naming a bad line."""
    path = Path(file)
    found: list[Demonstration] = []
    for at, row in read_rows(path):
        if len(found) == count:
            break
        try:
            if isinstance(row, Unreadable):
                raise ValueError(row.reason)
            question, reasoning, answer = (
                text_field(row, field) for field in ("question", "reasoning", "answer")
            )
        except ValueError as error:
            raise SeedFileError(f"{path}, line {at.line}: {error}; fix the line, then run again") from None
        found.append(Demonstration(question, reasoning, answer, at.file, at.line))
    if len(found) < count:
        raise SeedFileError(
            f"{path} holds {len(found)} demonstrations but demonstrations.count asks for {count}; "
            "add some, or lower the count"
        )
    return found


def import_demonstrations(lake: Lake, experiment: LmsiExperiment) -> Manifest:
    """Put the experiment's demonstrations into the lake, so that prompts can name them as parents."""
    section = experiment.demonstrations
    examples = read_demonstrations(section.file, section.count)
    path = Path(section.file)
    checksum = file_checksum(path)
    activity = Activity(
        DEMONSTRATIONS.name,
        {"experiment": experiment.name, "batch": f"{checksum.removeprefix('b2:')[:12]}-{section.count}"},
        CODE_VERSION,
        {"file": file_name(path), "checksum": checksum, "count": section.count},
        seed=0,
    )
    if lake.exists(DEMONSTRATIONS.name, activity.partition):
        return lake.manifest(DEMONSTRATIONS.name, activity.partition)
    drafts = (
        Draft(
            {
                "question": example.question,
                "reasoning": example.reasoning,
                "answer": example.answer,
                "source_file": example.source_file,
                "source_line": example.source_line,
                "licence": "unknown",
            }
        )
        for example in examples
    )
    return lake.write(DEMONSTRATIONS, activity, build_records(DEMONSTRATIONS, drafts, activity))


def demonstrations(
    lake: Lake, experiment: LmsiExperiment, *formats: str
) -> tuple[list[DemonstrationRecord], list[Manifest]]:
    """The worked examples that any of the formats shows, and the partition that holds them; else nothing."""
    if not any(name.startswith("few_shot") for name in formats):
        return [], []
    manifest = import_demonstrations(lake, experiment)
    columns = ["id", "question", "reasoning", "answer"]
    rows = lake.read_columns(manifest, columns).rows()
    if not rows:
        raise SeedFileError(
            f"experiment {experiment.name} has no demonstrations left for its few-shot prompts: all were "
            "revoked; name another file in demonstrations.file, or use zero_shot_cot in "
            "sampling.prompt_format and training.formats"
        )
    return [DemonstrationRecord(*row) for row in rows], [manifest]
