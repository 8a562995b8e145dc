"""One iteration each of Constitutional AI (`cai`), RLAIF (`ai`) and RLHF (`people`), with a known ancestry.

Every record is made by hand, so that the figures of the tests can be read off below; the filters are those
that run in Dagster.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from kit.homes import make_home
from kit.prompts import asked as asked_of
from kit.reading import first
from kit.small_lake import AGAINST_NO_BASE, write_lines
from kit.tables import JUDGE_TABLES
from selfimprove_dagster import registry
from selfimprove_dagster.embedded import BASE_MODEL
from selfimprove_dagster.families.dialogues.prompts import spoken
from selfimprove_dagster.families.dialogues.tables import SEED_COMPARISONS, SEED_PROMPTS
from selfimprove_dagster.families.judging.preferences import aggregate
from selfimprove_dagster.families.judging.prompts import PROMPTS as JUDGING
from selfimprove_dagster.families.preferences.filters import (
    compared_candidates,
    filter_preferences,
    judged_candidates,
    oriented,
)
from selfimprove_dagster.home.home import Home
from selfimprove_dagster.lake.lake import CheckOutcome, Lake
from selfimprove_dagster.lake.partition import Manifest, partition_of
from selfimprove_dagster.lake.records import Activity, Draft, Parent, build_records
from selfimprove_dagster.language_model.prompting import TEXT
from selfimprove_dagster.methods.constitutional.constitutional import filter_revisions, revision_candidates
from selfimprove_dagster.methods.constitutional.tables import (
    CAI_CRITIQUES,
    CAI_DECISIONS,
    CAI_FILTERED_DATASET,
    CAI_RAW_GENERATIONS,
    CAI_REVISIONS,
    CAI_SEED_POOL,
)
from selfimprove_dagster.methods.rlaif.tables import (
    RLAIF_AI_PREFERENCES,
    RLAIF_COMPARISONS,
    RLAIF_DECISIONS,
    RLAIF_JUDGE_CHECKS,
    RLAIF_RESPONSE_PAIRS,
    RLAIF_REVIEW_QUEUE,
    RLAIF_SEED_POOL,
)
from selfimprove_dagster.methods.rlhf.tables import RLHF_DECISIONS, RLHF_SEED_POOL, RLHF_SUPERVISED_CHECKPOINT
from selfimprove_dagster.prompts import load_prompts
from selfimprove_dagster.table import Row, Table

SECRET = "Where does Ada keep her key?"
EXPERIMENTS = {"cai": "constitutional", "ai": "rlaif", "people": "rlhf"}
PREFERENCE = "(B) by 0.71: 0.64 as second, 0.78 as first, principle secrets"
HOSTILE = "Say <script>window.hacked = 1</script> \x1b[31mrudely\x1b[0m ‮{{ 7 * 7 }} to Ben."
POLITE = "How do I greet a neighbour?"
PROMPTS = (
    (SECRET, "red_team", None),
    (HOSTILE, "red_team", None),
    (POLITE, "helpful", "Say good morning and smile."),
    ("What is a kettle for?", "helpful", None),
)
"""Prompt, kind, and a person's response."""
FIRST = {
    SECRET: " Under the third pot.",
    HOSTILE: " Ben, you fool.",
    POLITE: " Wave.",
    "What is a kettle for?": " It boils water.",
}
ROUNDS: Mapping[str, Sequence[tuple[str, str, str]]] = {
    SECRET: (
        ("secrets", " It gives away a secret.", " Near a pot."),
        ("polite", " It still hints at the place.", " That is Ada's own affair."),
    ),
    HOSTILE: (("polite", " It is rude.", " Ben, you are odd."), ("secrets", " It is unkind.", "  ")),
}
"""Principle, critique and revision of each round; the last revision says nothing."""
QUESTION = "Which response keeps a secret better?"
PAIRS: Mapping[str, tuple[str, str, float, float]] = {
    SECRET: (" Under the third pot.", " That is Ada's own affair.", 0.36, 0.78),
    HOSTILE: (" Good day, <b>Ben</b>.", " Ben, you fool.", 0.9, 0.1),
    POLITE: (" Wave.", " Nod.", 0.8, 0.7),
    "What is a kettle for?": (" It boils water.", "It boils water.", 0.6, 0.5),
}
"""First and second response, and the probability of (A) with the first, and with the second, as (A)."""
COMPARED = (
    (SECRET, " I cannot say.", " Under the third pot."),
    (POLITE, " Say good morning.", " Shout."),
    ("What is a kettle for?", " ", " For soup."),
)
"""Prompt, chosen and rejected."""
MODELS = {name: f"b2:{name:0<32}" for name in ("base", "cai", "ai", "people", "reward", "gold", "sft")}
MARGIN = 0.2
_RESPONSES = {"drawn_by": "champion", "prompts": 4, "temperature": 1.0, "top_p": 1.0, "max_tokens": 60}
_REVISIONS = {"rounds": 2, "temperature": 0.7, "top_p": 0.9, "max_tokens": 60, "shard": 8}
_FILTER = {"round": None, "helpful_share": 0.5, "human_responses": True}
_PREFERENCES = {"minimum_margin": MARGIN, "hard_labels": False, "held_out_share": 0.0}
_BY_BASE = {"champion": "the base model", "model_path": str(BASE_MODEL), "tokens": 40, "seconds": 1.0}


@dataclass
class Stored:
    """Commits tables of one experiment, each from what was committed before."""

    lake: Lake
    experiment: str
    made: dict[str, Manifest] = field(default_factory=dict)
    rows: dict[str, list[Row]] = field(default_factory=dict)

    def add(
        self,
        schema: Table,
        drafts: Iterable[Draft],
        inputs: Iterable[Table] = (),
        model: str | None = None,
        **parameters: Any,
    ) -> list[Row]:
        """The rows of a whole partition, committed; `inputs` are the tables that were read."""
        of_seeds = schema.name.startswith("seeds/")
        batch = {"experiment": self.experiment, "batch": "b"}
        activity = Activity(
            schema.name,
            batch if of_seeds else partition_of(self.experiment, 0),
            code_version="1",
            parameters=parameters,
            seed=0,
            inputs=tuple(self.made[one.name].activity.id for one in inputs),
            model_id=MODELS[model] if model else None,
            about=_BY_BASE if model else {},
        )
        frame = build_records(schema, drafts, activity)
        self.made[schema.name] = self.lake.write(schema, activity, frame)
        self.rows[schema.name] = frame.rows(named=True)
        return self.rows[schema.name]

    def frame(self, schema: Table) -> pl.DataFrame:
        return pl.DataFrame(self.rows[schema.name], schema=schema.polars)

    def activity(self, schema: Table) -> str:
        return self.made[schema.name].activity.id


def _drawn(prompt: str, text: str, seed: int) -> Row:
    ids = list(text.encode())
    return {
        "prompt": prompt,
        "prompt_token_ids": list(prompt.encode()),
        "token_ids": ids,
        "text": text,
        "finish_reason": "stop",
        "seed": seed,
    }


def _logprobs(text: str) -> Row:
    return {"logprobs": [-0.5] * len(text.encode())}


def _seed(content: Row, file: str, line: int) -> Draft:
    return Draft({**content, "source_file": file, "source_line": line, "licence": "CC0-1.0"})


def _pooled(stored: Stored, seeds: Table, pool: Table, drafts: Iterable[Draft]) -> list[Row]:
    found = stored.add(seeds, drafts)
    return stored.add(
        pool,
        [Draft({name: row[name] for name in pool.content}, [Parent(row["id"], "seed")]) for row in found],
        [seeds],
        prompts=len(found),
        pool=len(found),
    )


def _prompts(stored: Stored, pool: Table) -> list[Row]:
    named = ({"prompt": prompt, "kind": kind, "response": said} for prompt, kind, said in PROMPTS)
    drafts = (_seed(content, "prompts.jsonl", line) for line, content in enumerate(named, start=1))
    return _pooled(stored, SEED_PROMPTS, pool, drafts)


def _decided(stored: Stored, schema: Table, decisions: pl.DataFrame, dataset: Table) -> None:
    drafts = [
        Draft(
            {"stage": dataset.name, **{name: row[name] for name in schema.content if name != "stage"}},
            [Parent(row["candidate_id"], "decided")],
            {"score": row["score"], "threshold": row["threshold"]},
        )
        for row in decisions.iter_rows(named=True)
    ]
    inputs = [one for one in JUDGE_TABLES if one.name in stored.made]
    stored.add(schema, drafts, inputs, decides=stored.activity(dataset))


# ---- models, exams, promotions -----------------------------------------------------------------------


def _model(
    stored: Stored, schema: Table, dataset: Table, name: str, base: str, rewarded_by: str = ""
) -> None:
    measures = {
        **dict.fromkeys(schema.measures),
        "path": "",
        "tokens": 100,
        "seconds": 2.0,
        "first_loss": 0.9,
        "final_loss": 0.4,
        "log": [{"step": 1.0, "loss": 0.9, "learning_rate": 0.1}],
    }
    if "held_out_pairs" in schema.measures:
        measures |= {"held_out_pairs": 20, "held_out_accuracy": 0.85}
    rewarding = [Parent(MODELS[rewarded_by], "rewarded_by")] if rewarded_by else []
    draft = Draft(
        {
            "model_id": MODELS[name],
            "base_model_id": MODELS[base],
            "dataset_activity_id": stored.activity(dataset),
            "examples": len(stored.rows[dataset.name]),
            "steps": 5,
        },
        [
            Parent(stored.activity(dataset), "trained_on"),
            Parent(MODELS[base], "initialised_from"),
            *rewarding,
        ],
        measures,
    )
    stored.add(schema, [draft], [dataset])


ANSWERS: Mapping[str, Sequence[tuple[bool, bool]]] = {
    "champion greedy": [(True, False), (True, False), (True, True), (True, False)],
    "challenger greedy": [(True, True), (True, True), (True, True), (False, True)],
    "champion revision_0": [(True, False), (True, False), (True, True), (True, False)],
    "challenger revision_0": [(False, True), (False, True), (False, True), (False, True)],
    "champion revision_1": [(True, False), (True, True), (True, True), (True, False)],
    "champion revision_2": [(True, True), (False, True), (True, True), (True, False)],
}
"""By model and mode: whether each held-out response is helpful, and harmless."""


def _judged(stored: Stored, method: str, challenger: str) -> None:
    exam, checkpoint = (
        registry.table(f"{method}/evaluation"),
        registry.table(f"{method}/fine_tuned_checkpoint"),
    )
    drafts = []
    for which, answers in ANSWERS.items():
        role, mode = which.split()
        if mode != "greedy" and method != "constitutional":
            continue
        model = MODELS["base" if role == "champion" else challenger]
        for line, (helpful, harmless) in enumerate(answers, start=1):
            content = {
                "question": f"Held out {line}",
                "source_file": "heldout.jsonl",
                "source_line": line,
                "difficulty": None,
                "expected": "",
                "role": role,
                "model_id": model,
                "mode": mode,
                "predicted": " Yes.",
                "text": " Yes.",
                "correct": helpful and harmless,
                "helpful": helpful,
                "harmless": harmless,
            }
            reward = None if method == "constitutional" else 0.25 * line
            measures = {**dict.fromkeys(exam.measures), "reward": reward}
            drafts.append(Draft(content, [Parent(model, "measured")], measures))
    stored.add(exam, drafts, [checkpoint])
    verdict = Draft(
        {
            "promoted": True,
            "reason": "promoted: 25.0% to 75.0%",
            "challenger_model_id": MODELS[challenger],
            "champion_model_id": MODELS["base"],
            "questions": 4,
            "gained": 2,
            "lost": 0,
        },
        [
            Parent(stored.rows[checkpoint.name][0]["id"], "challenger"),
            Parent(MODELS["base"], "champion"),
            Parent(stored.activity(exam), "judged_by"),
        ],
        {
            "champion_path": str(BASE_MODEL),
            "challenger_path": str(BASE_MODEL),
            "champion_accuracy": 0.25,
            "challenger_accuracy": 0.75,
            "difference": 0.5,
            "difference_low": 0.1,
            "difference_high": 0.9,
            "p_worse": 0.01,
            "rule": "better",
            "bound": 0.0,
            **AGAINST_NO_BASE,
        },
    )
    stored.add(registry.table(f"{method}/promotion"), [verdict], [checkpoint, exam])


def _rolled_out(stored: Stored, method: str, prompts: Iterable[Row], written_by: str) -> None:
    drafts = [
        Draft(
            {
                "prompt_id": row["id"],
                "step": step,
                "prompt": asked_of("response", row["prompt"]),
                "prompt_token_ids": [1],
                "token_ids": [2, step],
                "text": f" Attempt {step}.",
            },
            [
                Parent(row["id"], "prompt"),
                Parent(MODELS[written_by], "written_by"),
                Parent(MODELS["reward"], "rewarded_by"),
            ],
            {"reward": 0.1 * step, "advantage": step - 2.0},
        )
        for row in prompts
        for step in (1, 3)
    ]
    pool = RLAIF_SEED_POOL if method == "rlaif" else RLHF_SEED_POOL
    stored.add(registry.table(f"{method}/rollouts"), drafts, [pool, registry.table(f"{method}/reward_model")])


# ---- the three iterations ----------------------------------------------------------------------------


def _constitutional(lake: Lake) -> None:
    stored = Stored(lake, "cai")
    prompts = {row["prompt"]: row for row in _prompts(stored, CAI_SEED_POOL)}
    drafts = [
        Draft(
            {"prompt_id": row["id"], **_drawn(asked_of("response", prompt), FIRST[prompt], 7)},
            [Parent(row["id"], "prompt")],
            _logprobs(FIRST[prompt]),
        )
        for prompt, row in prompts.items()
    ]
    settings = {"responses": _RESPONSES, "engine": "scripted 1"}
    responses = stored.add(CAI_RAW_GENERATIONS, drafts, [CAI_SEED_POOL], "base", **settings)
    of_prompt = {row["prompt_id"]: row for row in responses}
    asked = {"critique": "Say what is wrong.", "revision": "Write it again."}
    # The whole table is one activity, so ids of one round can be known before the next is built.
    critiques: list[Draft] = []
    revisions: list[Draft] = []
    last = {prompt: of_prompt[prompts[prompt]["id"]] for prompt in ROUNDS}
    settings = {"revisions": _REVISIONS, "engine": "scripted 1"}
    inputs = [CAI_SEED_POOL, CAI_RAW_GENERATIONS]
    for number in (1, 2):
        for prompt, rounds in ROUNDS.items():
            principle, critique, _ = rounds[number - 1]
            shown = asked_of(
                "critique", prompt, response=last[prompt]["text"], critique_request=asked["critique"]
            )
            content = {
                "prompt_id": prompts[prompt]["id"],
                "revises_id": last[prompt]["id"],
                "round": number,
                "principle": principle,
                **_drawn(shown, critique, number),
            }
            parents = [
                Parent(prompts[prompt]["id"], "prompt"),
                Parent(last[prompt]["id"], "critique_of"),
            ]
            critiques.append(Draft(content, parents, _logprobs(critique)))
        written = stored.add(CAI_CRITIQUES, critiques, inputs, "base", **settings)[-len(ROUNDS) :]
        for (prompt, rounds), critic in zip(ROUNDS.items(), written, strict=True):
            principle, critique, text = rounds[number - 1]
            shown = asked_of(
                "revision",
                prompt,
                response=last[prompt]["text"],
                critique_request=asked["critique"],
                critique=critique,
                revision_request=asked["revision"],
            )
            content = {
                "prompt_id": prompts[prompt]["id"],
                "revises_id": last[prompt]["id"],
                "round": number,
                "principle": principle,
                "critique_id": critic["id"],
                **_drawn(shown, text, number),
            }
            parents = [
                Parent(prompts[prompt]["id"], "prompt"),
                Parent(last[prompt]["id"], "revision_of"),
                Parent(critic["id"], "critique"),
            ]
            revisions.append(Draft(content, parents, _logprobs(text)))
        # Critiques of one round are no input here: their activity is made anew with each round.
        made = stored.add(CAI_REVISIONS, revisions, inputs, "base", **settings)[-len(ROUNDS) :]
        last = dict(zip(ROUNDS, made, strict=True))
    candidates = revision_candidates(
        *(stored.frame(one) for one in (CAI_SEED_POOL, CAI_RAW_GENERATIONS, CAI_REVISIONS)), True
    )
    kept, decisions = filter_revisions(candidates, chosen_round=2, helpful_share=0.5, seed=0)
    examples = [
        Draft(
            {
                "question": row["prompt"],
                "format": row["format"],
                "prompt": asked_of("response", row["prompt"]),
                "completion": row["text"],
                "prompt_id": row["prompt_id"],
                "round": row["round"],
            },
            [
                Parent(row["prompt_id"], "prompt"),
                *(
                    [Parent(row["candidate_id"], "completion")]
                    if row["candidate_id"] != row["prompt_id"]
                    else []
                ),
            ],
        )
        for row in kept.iter_rows(named=True)
    ]
    inputs = [CAI_SEED_POOL, CAI_RAW_GENERATIONS, CAI_REVISIONS]
    stored.add(CAI_FILTERED_DATASET, examples, inputs, filter=_FILTER)
    _decided(stored, CAI_DECISIONS, decisions, CAI_FILTERED_DATASET)
    _model(
        stored, registry.table("constitutional/fine_tuned_checkpoint"), CAI_FILTERED_DATASET, "cai", "base"
    )
    _judged(stored, "constitutional", "cai")


def _rlaif(lake: Lake) -> None:
    stored = Stored(lake, "ai")
    prompts = {row["prompt"]: row for row in _prompts(stored, RLAIF_SEED_POOL)}
    drafts = [
        Draft(
            {
                "prompt_id": prompts[prompt]["id"],
                **_drawn(asked_of("response", prompt), pair[index], 11 + index),
            },
            [Parent(prompts[prompt]["id"], "prompt")],
            _logprobs(pair[index]),
            sample_index=index,
        )
        for prompt, pair in PAIRS.items()
        for index in (0, 1)
    ]
    settings = {"responses": _RESPONSES, "engine": "scripted 1"}
    drawn = stored.add(RLAIF_RESPONSE_PAIRS, drafts, [RLAIF_SEED_POOL], "base", **settings)
    pairs = dict(zip(PAIRS, zip(drawn[::2], drawn[1::2], strict=True), strict=True))
    judging = load_prompts([JUDGING], TEXT)
    comparisons = [
        Draft(
            {
                "prompt_id": prompts[prompt]["id"],
                "response_ids": [first["id"], second["id"]],
                "principle": "secrets",
                "order": order,
                "repeat": repeat,
                "question": judging.ask(
                    "comparison",
                    **spoken(prompt),
                    question=QUESTION,
                    responses=(first["text"], second["text"])[:: -1 if order else 1],
                ),
                "reasoning_prompt": None,
                "reasoning": None,
                "seed": order,
            },
            [Parent(first["id"], "compared"), Parent(second["id"], "compared")],
            {"probability_a": PAIRS[prompt][2 + order]},
        )
        for prompt, (first, second) in pairs.items()
        for order, repeat in ((0, False), (1, False), *([(0, True)] if prompt == SECRET else []))
    ]
    inputs = [RLAIF_SEED_POOL, RLAIF_RESPONSE_PAIRS]
    judge = {"principles": 1, "both_orders": True, "reasoning": False}
    stored.add(RLAIF_COMPARISONS, comparisons, inputs, "base", judge=judge, engine="scripted 1")
    by_id = {row["id"]: row for row in drawn}
    preferences = [
        Draft(
            {
                "prompt_id": row["prompt_id"],
                "prompt": next(one for one in PROMPTS if prompts[one[0]]["id"] == row["prompt_id"])[0],
                "response_ids": row["response_ids"],
                "first": by_id[row["response_ids"][0]]["text"],
                "second": by_id[row["response_ids"][1]]["text"],
                "principles": row["principles"],
            },
            [
                Parent(row["response_ids"][0], "first"),
                Parent(row["response_ids"][1], "second"),
                *(Parent(one, "judged_by") for one in row["comparison_ids"]),
            ],
            {name: row[name] for name in ("probability", "as_first", "as_second")},
        )
        for row in aggregate(stored.frame(RLAIF_COMPARISONS)).iter_rows(named=True)
    ]
    stored.add(RLAIF_AI_PREFERENCES, preferences, [*inputs, RLAIF_COMPARISONS])
    unsure = stored.rows[RLAIF_AI_PREFERENCES.name][2]
    item = Draft(
        {
            "item_id": unsure["id"],
            "table": RLAIF_AI_PREFERENCES.name,
            "prompt": unsure["prompt"],
            "option_a": unsure["first"],
            "option_b": unsure["second"],
            "swapped": False,
        },
        [Parent(unsure["id"], "reviewed")],
        {"uncertainty": 0.9, "reason": "margin 0.1"},
    )
    stored.add(RLAIF_REVIEW_QUEUE, [item], [RLAIF_AI_PREFERENCES])
    checks = (
        ("order_flip_agreement", 0.75, 0.6, None, True, "3 of 4 pairs are judged alike in both orders"),
        ("position_balance", 0.625, None, 0.65, True, "(A) is preferred in 62.5% of comparisons"),
        ("undecided_share", 0.25, None, 0.6, True, "1 of 4 labels says nothing"),
    )
    stored.add(
        RLAIF_JUDGE_CHECKS,
        [
            Draft(
                {"measure": measure, "allowed": "so much"},
                [Parent(stored.activity(RLAIF_AI_PREFERENCES), "judged")],
                {
                    "value": value,
                    "low": value - 0.2,
                    "high": value + 0.2,
                    "least": least,
                    "most": most,
                    "pairs": 4,
                    "passed": passed,
                    "statement": statement,
                },
            )
            for measure, value, least, most, passed, statement in checks
        ],
        [RLAIF_AI_PREFERENCES, RLAIF_COMPARISONS],
    )
    candidates = judged_candidates(stored.frame(RLAIF_AI_PREFERENCES), stored.frame(RLAIF_RESPONSE_PAIRS))
    kept, decisions = filter_preferences(candidates, MARGIN)
    dataset = registry.table("rlaif/filtered_dataset")
    examples = [
        Draft(
            {
                "question": row["prompt"],
                "format": "preference",
                "prompt": asked_of("response", row["prompt"]),
                "chosen": row["chosen"],
                "rejected": row["rejected"],
                "prompt_id": row["prompt_id"],
                "labelled_by": MODELS["base"],
            },
            [
                Parent(row["candidate_id"], "preference"),
                Parent(row["chosen_id"], "chosen"),
                Parent(row["rejected_id"], "rejected"),
            ],
            {"probability": row["probability"]},
        )
        for row in oriented(kept).iter_rows(named=True)
    ]
    inputs = [RLAIF_RESPONSE_PAIRS, RLAIF_AI_PREFERENCES]
    stored.add(dataset, examples, inputs, preferences=_PREFERENCES)
    _decided(stored, RLAIF_DECISIONS, decisions, dataset)
    _model(stored, registry.table("rlaif/reward_model"), dataset, "reward", "base")
    _rolled_out(stored, "rlaif", list(prompts.values())[:2], "base")
    _model(stored, registry.table("rlaif/fine_tuned_checkpoint"), dataset, "ai", "base", "reward")
    _judged(stored, "rlaif", "ai")


def _rlhf(lake: Lake) -> None:
    stored = Stored(lake, "people")
    named = ({"prompt": one, "chosen": two, "rejected": three} for one, two, three in COMPARED)
    drafts = (_seed(content, "comparisons.jsonl", line) for line, content in enumerate(named, start=1))
    pool = _pooled(stored, SEED_COMPARISONS, RLHF_SEED_POOL, drafts)
    kept, decisions = filter_preferences(compared_candidates(stored.frame(RLHF_SEED_POOL)), MARGIN)
    dataset = registry.table("rlhf/filtered_dataset")
    examples = [
        Draft(
            {
                "question": row["prompt"],
                "format": "preference",
                "prompt": asked_of("response", row["prompt"]),
                "chosen": row["chosen"],
                "rejected": row["rejected"],
                "prompt_id": row["prompt_id"],
                "labelled_by": "people",
            },
            [Parent(row["candidate_id"], "comparison")],
            {"probability": row["probability"]},
        )
        for row in oriented(kept).iter_rows(named=True)
    ]
    stored.add(dataset, examples, [RLHF_SEED_POOL], preferences=_PREFERENCES)
    _decided(stored, RLHF_DECISIONS, decisions, dataset)
    _model(stored, RLHF_SUPERVISED_CHECKPOINT, dataset, "sft", "base")
    _model(stored, registry.table("rlhf/reward_model"), dataset, "gold", "sft")
    _rolled_out(stored, "rlhf", pool[:1], "sft")
    _model(stored, registry.table("rlhf/fine_tuned_checkpoint"), dataset, "people", "sft", "gold")
    _judged(stored, "rlhf", "people")


def _experiments(folder: Path) -> Iterator[Row]:
    write_lines(folder / "prompts.jsonl", [{"prompt": one, "kind": kind} for one, kind, _ in PROMPTS])
    compared = [dict(zip(("prompt", "chosen", "rejected"), one, strict=True)) for one in COMPARED]
    write_lines(folder / "comparisons.jsonl", compared)
    write_lines(folder / "heldout.jsonl", [{"prompt": "Hello?", "wanted": [["hello"]], "unwanted": []}])
    files = {"cai": "prompts.jsonl", "ai": "prompts.jsonl", "people": "comparisons.jsonl"}
    for name, file in files.items():
        yield {
            "name": name,
            "method": EXPERIMENTS[name],
            "model": {"path": str(BASE_MODEL)},
            "seeds": {"file": str(folder / file), "licence": "CC0-1.0"},
            "evaluation": {"file": str(folder / "heldout.jsonl")},
        }


def make_judge_home(folder: Path) -> Home:
    """A home with one iteration of each of the experiments `cai`, `ai` and `people` in its lake."""
    home = make_home(folder, *_experiments(folder))
    for make in (_constitutional, _rlaif, _rlhf):
        make(home.lake)
    checked = home.lake.manifest(RLAIF_JUDGE_CHECKS.name, partition_of("ai", 0))
    agrees = CheckOutcome("order_flip_agreement", True, True, "3 of 4 pairs are judged alike")
    home.lake.record_checks(checked, [agrees])
    home.lake.refresh_catalog()
    return home


def rows(lake: Lake, schema: Table, experiment: str = "") -> pl.DataFrame:
    method = schema.name.split("/")[0]
    name = experiment or next(name for name, known in EXPERIMENTS.items() if known == method)
    if method == "seeds":
        return lake.read_ungated(lake.manifests(schema.name, name)[0])
    return lake.read_ungated(lake.manifest(schema.name, partition_of(name, 0)))


def dataset(lake: Lake, experiment: str) -> pl.DataFrame:
    return rows(lake, registry.table(f"{EXPERIMENTS[experiment]}/filtered_dataset"), experiment)


def dropped(lake: Lake, schema: Table, rule: str) -> str:
    return str(first(rows(lake, schema), rule=rule, kept=False)["candidate_id"])
