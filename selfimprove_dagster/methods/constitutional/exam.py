"""The exam of dialogues, and beside it the model's own revisions of sampled responses, round by round."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from selfimprove_dagster.evaluation.exam import Exams, OpenedExam, OpenModel, Part
from selfimprove_dagster.families.dialogues.exam import (
    REVISION,
    DialogueExam,
    cut,
    held_out_prompts,
    judged_row,
    revision_mode,
)
from selfimprove_dagster.families.dialogues.files import read_held_out_prompts
from selfimprove_dagster.families.dialogues.prompts import spoken
from selfimprove_dagster.families.dialogues.revising import Draw, Response, revise
from selfimprove_dagster.families.dialogues.settings import ResponseSection
from selfimprove_dagster.families.judging.exam import judge_of
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.records import Activity, build_records
from selfimprove_dagster.language_model.base import LanguageModel, Progress, SamplingParameters
from selfimprove_dagster.methods.constitutional.settings import ConstitutionalExperiment, RevisionSection
from selfimprove_dagster.methods.constitutional.tables import CAI_CRITIQUES, CAI_REVISIONS
from selfimprove_dagster.work.shards import Request, completer


@dataclass(frozen=True)
class RevisionExam(DialogueExam):
    """Held-out prompts, answered greedily; of the first `revised_prompts` also the revisions of every round."""

    experiment: ConstitutionalExperiment

    @property
    def parts(self) -> list[Part]:
        """The whole exam, in the order in which it is sat."""
        revised = self.prompts[: self.experiment.evaluation.revised_prompts]
        paths = 1 + 2 * self.experiment.revisions.rounds
        parts = [Part(REVISION, asked, len(asked) * paths) for asked in cut(revised)] if self._revises else []
        return [*super().parts, *parts]

    @property
    def _revises(self) -> bool:
        return self.experiment.evaluation.revised_prompts > 0

    @property
    def parameters(self) -> dict[str, Any]:
        """All that shapes the answers besides the model."""
        experiment, shaping = self.experiment, super().parameters
        if self._revises:
            shaping |= {
                "constitution": experiment.constitution.load().hash,
                "responses": experiment.responses.model_dump(include={"temperature", "top_p", "max_tokens"}),
                "revisions": experiment.revisions.model_dump(exclude={"shard"}),
                "revised_prompts": experiment.evaluation.revised_prompts,
                "seed": experiment.seed,
            }
        return shaping

    def sit_part(
        self, model: LanguageModel, part: Part, progress: Progress | None = None
    ) -> list[dict[str, Any]]:
        """The rows of `sit` that belong to one of the `parts`."""
        if part.mode != REVISION:
            return super().sit_part(model, part, progress)
        experiment, asked = self.experiment, held_out_prompts(part)
        section = experiment.revisions
        seeds_from = (experiment.seed, "evaluation")
        report = _Report(progress)

        def drawing(prompt: str, settings: ResponseSection | RevisionSection) -> Draw:
            parameters = SamplingParameters(
                temperature=settings.temperature,
                top_p=settings.top_p,
                max_tokens=settings.max_tokens,
                stop=self.asking.stops(prompt),
                structure=self.asking.structure(prompt),
            )
            draw = completer(model, parameters, seeds_from)
            return lambda requests: draw(requests, report)

        drafts = drawing("response", experiment.responses)(
            [
                Request(prompt.question, self.asking.ask("response", **spoken(prompt.question)), {}, ())
                for prompt in asked
            ]
        )
        answered = [str(draft.content["text"]) for draft in drafts]
        # The rows are no records of the lake; all that is used of them is their text.
        activity = Activity("evaluation", {}, "", {}, experiment.seed)
        _, revisions = revise(
            [
                Response(str(number), str(number), prompt.question, text)
                for number, (prompt, text) in enumerate(zip(asked, answered, strict=True))
            ],
            experiment.constitution.load(),
            section.rounds,
            seeds_from,
            self.asking,
            drawing("critique", section),
            drawing("revision", section),
            lambda drafts: build_records(CAI_CRITIQUES, drafts, activity),
            lambda drafts: build_records(CAI_REVISIONS, drafts, activity),
        )
        # What is not revised, as a text says nothing, stays as it is.
        said, rows = answered, []
        for number in range(section.rounds + 1):
            made = dict(revisions.filter(round=number).select("prompt_id", "text").iter_rows())
            said = [made.get(str(place), text) for place, text in enumerate(said)]
            rows += [
                judged_row(prompt, text, revision_mode(number), problem=draft.measures["problem"])
                for prompt, text, draft in zip(asked, said, drafts, strict=True)
            ]
        return rows


@dataclass(frozen=True)
class _Report:
    """Reports to `progress` what is drawn."""

    progress: Progress | None

    def advance(self, units: int, tokens: int = 0) -> None:
        if self.progress is not None:
            self.progress(units, tokens)


def _open(
    home: Home, experiment: ConstitutionalExperiment, open_model: OpenModel, iteration: int | None
) -> OpenedExam:
    prompts, rejected = read_held_out_prompts(experiment.evaluation)
    judge = judge_of(experiment, experiment.evaluation.judge, open_model)
    return OpenedExam(RevisionExam(experiment, prompts, judge=judge), [], rejected)


EXAM = Exams(_open, held_out=lambda experiment: read_held_out_prompts(experiment.evaluation))
