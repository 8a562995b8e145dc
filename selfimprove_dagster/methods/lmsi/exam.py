"""The exam of self-consistency: held-out questions with an answer, by the prompts that paths follow.

Here, and nowhere else, are true answers read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from selfimprove_dagster import registry
from selfimprove_dagster.answers.answers import VERSION, extract_answers
from selfimprove_dagster.answers.canonical import answers_agree
from selfimprove_dagster.evaluation.exam import PART_PATHS, Exam, Exams, OpenedExam, OpenModel, Part, accuracy
from selfimprove_dagster.evaluation.results import Results, Stages
from selfimprove_dagster.families.voting.voting import vote
from selfimprove_dagster.filters.rules import perplexity_of
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.records import content_hash
from selfimprove_dagster.language_model.base import LanguageModel, Progress, SamplingParameters
from selfimprove_dagster.lots import seed_of
from selfimprove_dagster.methods.lmsi.sampling import DemonstrationRecord, demonstrations, sampling_parameters
from selfimprove_dagster.methods.lmsi.settings import LmsiExperiment
from selfimprove_dagster.prompts import Prompts
from selfimprove_dagster.seeds.files import Question, read_questions
from selfimprove_dagster.text import percent


@dataclass(frozen=True)
class QuestionExam(Exam):
    """The held-out questions and how they are put: one greedy path each, and for the first of them a vote."""

    experiment: LmsiExperiment
    questions: Sequence[Question]
    demonstrations: Sequence[DemonstrationRecord]
    prompts: Prompts

    @property
    def modes(self) -> dict[str, Sequence[Question]]:
        """The questions that each mode asks; a mode without any is left out."""
        voted = self.questions[: self.experiment.evaluation.majority_questions]
        return {"greedy": self.questions, "majority": voted} if voted else {"greedy": self.questions}

    @property
    def parts(self) -> list[Part]:
        """The whole exam, mode by mode, in the order in which it is sat."""
        each = {"greedy": 1, "majority": self.experiment.evaluation.majority_paths}
        return [
            Part(mode, asked, len(asked) * each[mode])
            for mode, questions in self.modes.items()
            for size in (max(PART_PATHS // each[mode], 1),)
            for start in range(0, max(len(questions), 1), size)
            for asked in (questions[start : start + size],)
        ]

    @property
    def parameters(self) -> dict[str, Any]:
        """All that shapes the answers besides the model."""
        section, sampling = self.experiment.evaluation, self.experiment.sampling
        return {
            "questions": content_hash({"all": [vars(question) for question in self.questions]}),
            "demonstrations": content_hash({"all": [vars(shown) for shown in self.demonstrations]}),
            "seed": self.experiment.seed,
            "majority": [section.majority_questions, section.majority_paths],
            "temperature": sampling.temperature,
            "answers_version": VERSION,
            **self.prompts.parameters,
            **sampling.model_dump(include={"top_p", "top_k", "max_tokens", "prompt_format", "stop"}),
            **({"weights": self.experiment.voting.weights} if self.experiment.voting.weights else {}),
            **self.experiment.answers_read,
        }

    def sit_part(
        self, model: LanguageModel, part: Part, progress: Progress | None = None
    ) -> list[dict[str, Any]]:
        """The rows of `sit` that belong to one of the `parts`."""
        section, questions, mode = self.experiment.sampling, part.questions, part.mode
        if not questions:
            return []
        if mode == "greedy":
            stop = (*section.stop, *self.prompts.stops(section.prompt_format))
            structure = self.prompts.structure(section.prompt_format)
            parameters = SamplingParameters(
                temperature=0.0, max_tokens=section.max_tokens, stop=stop, structure=structure
            )
            per_question = 1
        else:
            parameters = sampling_parameters(section, self.prompts, improved=False)
            per_question = self.experiment.evaluation.majority_paths
        texts = [question.question for question in questions]
        shown = self.demonstrations
        prompts = [
            self.prompts.ask(section.prompt_format, question=text, demonstrations=shown) for text in texts
        ]
        seeds = [
            [seed_of(self.experiment.seed, "evaluation", text, index) for index in range(per_question)]
            for text in texts
        ]
        paths = model.generate(model.encode_prompts(prompts), seeds, parameters, progress)
        ballots = pl.DataFrame(
            [
                {
                    "question_id": str(at),
                    "path_id": f"{at}/{index}",
                    "sample_index": index,
                    "text_key": path.text,
                    "logprobs": path.logprobs,
                }
                for at, drawn in enumerate(paths)
                for index, path in enumerate(drawn)
            ]
        )
        answers = extract_answers(ballots["text_key"], self.experiment.conventions)
        ballots = ballots.with_columns(answers.alias("answer"))
        if self.experiment.voting.weights:
            ballots = ballots.with_columns(weight=perplexity_of(pl.col("logprobs"))["mean_logprob"].exp())
        predicted = vote(ballots)
        return [
            {
                "question": question.question,
                "source_file": question.source_file,
                "source_line": question.source_line,
                "difficulty": question.difficulty,
                "expected": question.answer,
                "mode": mode,
                "predicted": answer,
                "text": drawn[0].text if mode == "greedy" else None,
                "correct": answers_agree(answer, question.answer),
                "problem": drawn[0].problem if all(path.problem for path in drawn) else None,
            }
            for question, answer, drawn in zip(questions, predicted["voted_answer"], paths, strict=True)
        ]


def _open(home: Home, experiment: LmsiExperiment, open_model: OpenModel, iteration: int | None) -> OpenedExam:
    shown, inputs = demonstrations(home.lake, experiment, experiment.sampling.prompt_format)
    questions, rejected = read_questions(experiment.evaluation, experiment.conventions)
    return OpenedExam(
        QuestionExam(experiment, questions, shown, registry.prompts(experiment)), inputs, rejected
    )


def _columns(lake: Lake, stages: Stages) -> dict[str, str]:
    margin = by_vote = None
    if "voted_answers" in stages:
        margin = lake.read_ungated(stages["voted_answers"])["margin"].mean()
    if "evaluation" in stages:
        by_vote = accuracy(lake.read_ungated(stages["evaluation"]), "challenger", "majority")
    return {
        "vote margin": f"{margin:.3f}" if isinstance(margin, float) else "–",
        "by vote": percent(by_vote.value) if by_vote else "–",
    }


RESULTS = Results(_columns, about="by vote: held-out accuracy of the new checkpoint's majority")


EXAM = Exams(_open, held_out=lambda experiment: read_questions(experiment.evaluation, experiment.conventions))
