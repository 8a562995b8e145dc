"""What became of an experiment, iteration by iteration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from selfimprove_dagster.evaluation.exam import accuracy
from selfimprove_dagster.evaluation.measurement import Accuracy
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.partition import Manifest
from selfimprove_dagster.lake.taint import tainted_models
from selfimprove_dagster.methods.refinement.exam import after_rounds
from selfimprove_dagster.methods.refinement.tables import METHOD as REFINEMENT
from selfimprove_dagster.methods.self_knowledge.tables import METHOD as SELF_KNOWLEDGE
from selfimprove_dagster.tables import JUDGE_METHODS

_DRAWN = ("response_pairs", "candidates")
"""What is drawn of a method without raw_generations."""


@dataclass(frozen=True)
class IterationResult:
    """One row of the results table; None where a stage is not committed yet, or the method has none.

    Rows that were revoked do not count. `questions` are the rows of the pool, be they questions, tasks or
    prompts, and `paths` all completions drawn from them. `tainted` says why the new checkpoint is passed
    over, if it is; `ended` whether the method came to its last stage. `by_way`: held-out accuracy of first
    answers and of each way to refine them.
    """

    iteration: int
    questions: int | None
    paths: int | None
    examples: int | None
    margin: float | None
    champion: Accuracy | None
    challenger: Accuracy | None
    challenger_majority: Accuracy | None
    promoted: bool | None
    reason: str
    closed_gates: tuple[str, ...]
    tainted: str
    candidates: int | None = None
    accepted: int | None = None
    by_way: Mapping[str, Accuracy] = field(default_factory=dict)
    ended: bool = False

    @property
    def accepted_share(self) -> float | None:
        """The yield of a method whose model writes tasks: accepted tasks per candidate."""
        if not self.candidates or self.accepted is None:
            return None
        return self.accepted / self.candidates

    def counts(self, method: str) -> dict[str, int | None]:
        """What the results table of a method counts, by heading."""
        if method == "lmsi":
            return {"questions": self.questions, "samples": self.paths, "kept": self.examples}
        if method == "toolformer":
            return {"texts": self.questions, "calls": self.paths, "texts with calls": self.examples}
        if method in ("rlhf", "pit"):
            return {"comparisons": self.questions, "examples": self.examples}
        if method == REFINEMENT:
            return {"prompts": self.questions, "first answers": self.paths}
        if method == SELF_KNOWLEDGE:
            return {"questions": self.questions, "candidates": self.paths}
        if method in JUDGE_METHODS:
            return {"prompts": self.questions, "responses": self.paths, "examples": self.examples}
        return {
            "tasks in pool": self.questions,
            "candidates": self.candidates,
            "accepted": self.accepted,
            "examples": self.examples,
        }


def results(lake: Lake, experiment: Experiment) -> list[IterationResult]:
    """The experiment's iterations in order, finished or not."""
    by_iteration: dict[int, dict[str, Manifest]] = {}
    for manifest in lake.manifests(f"{experiment.method}/*", experiment.name):
        by_iteration.setdefault(manifest.iteration, {})[manifest.table.split("/")[1]] = manifest
    tainted = tainted_models(lake, experiment.name)
    return [
        _result(lake, iteration, stages, tainted, experiment)
        for iteration, stages in sorted(by_iteration.items())
    ]


def _result(
    lake: Lake,
    iteration: int,
    stages: dict[str, Manifest],
    tainted: Mapping[str, str],
    experiment: Experiment,
) -> IterationResult:
    mode = experiment.decided_in

    def rows(stage: str) -> int | None:
        return lake.live_rows(stages[stage]) if stage in stages else None

    margin = champion = challenger = majority = promoted = None
    by_way: dict[str, Accuracy] = {}
    reason = taint = ""
    if "voted_answers" in stages:
        mean = lake.read_ungated(stages["voted_answers"])["margin"].mean()
        margin = float(mean) if isinstance(mean, float) else None
    if "evaluation" in stages:
        answers = lake.read_ungated(stages["evaluation"])
        champion, challenger = (accuracy(answers, role, mode) for role in ("champion", "challenger"))
        majority = accuracy(answers, "challenger", "majority")
        if "refinements" in stages:
            # Rounds of a way come in order: its last stands.
            by_way = {one.way: one.correct for one in after_rounds(answers)}
    if "discrimination_gap" in stages:
        reason = "; ".join(lake.read_ungated(stages["discrimination_gap"])["statement"])
    if "promotion" in stages:
        decision = lake.read_ungated(stages["promotion"]).row(0, named=True)
        promoted, reason = decision["promoted"], decision["reason"]
        taint = tainted.get(decision["challenger_model_id"], "")
    closed = tuple(
        f"{manifest.table}: {check.name}: {check.reason}"
        for manifest in stages.values()
        for check in lake.checks(manifest)
        if check.blocking and not check.passed
    )
    return IterationResult(
        iteration=iteration,
        questions=rows("questions" if "questions" in stages else "seed_pool"),
        paths=rows(next((name for name in _DRAWN if name in stages), "raw_generations")),
        examples=rows("filtered_dataset"),
        margin=margin,
        champion=champion,
        challenger=challenger,
        challenger_majority=majority,
        promoted=promoted,
        reason=reason,
        closed_gates=closed,
        tainted=taint,
        candidates=rows("candidate_tasks"),
        accepted=rows("accepted_tasks"),
        by_way=by_way,
        ended=experiment.ends_with in stages,
    )
