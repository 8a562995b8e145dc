"""A record's ancestry as a graph to draw and as a nested list to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from selfimprove_dagster.explorer.shown import href, short_id
from selfimprove_dagster.families.preferences.explain import TABLES as JUDGED
from selfimprove_dagster.families.preferences.explain import said_of as judged_words
from selfimprove_dagster.families.tasks.explain import text_of
from selfimprove_dagster.lineage.walk import Walk
from selfimprove_dagster.methods.self_knowledge.explain import TABLES as SELF_KNOWLEDGE
from selfimprove_dagster.methods.self_knowledge.explain import said_of as measured_words
from selfimprove_dagster.methods.toolformer.explain import said_of
from selfimprove_dagster.methods.toolformer.tables import SEED_TEXTS
from selfimprove_dagster.methods.toolformer.tables import TABLES as TOOL_TABLES
from selfimprove_dagster.tables import TASK_TABLES
from selfimprove_dagster.text import plain


def _label(record: str, table: str | None, row: Mapping[str, Any] | None, role: str) -> str:
    """A few words for a node: what it is and what it says; for what is no row, by the role it played."""
    if table is None:
        return _SETS.get(role, "activity") if record.startswith("act:") else f"model {short_id(record)}"
    stage = table.split("/")[1]
    if row is None:
        return f"{_NAMES.get(stage, stage)} (revoked)"
    if table in _TOOL_TABLES and stage not in _ALIKE:
        said = "" if stage in _TEXTLESS else said_of(dict(row))
        name = _TOOL_NAMES.get(stage, _NAMES.get(stage, stage))
        return plain(f"{name}: {said}" if said else name, 42)
    if table in JUDGED and stage not in _ALIKE:
        said = "" if stage in _UNSAID else judged_words(dict(row))
        name = _JUDGE_NAMES.get(stage, stage)
        return plain(f"{name}: {said}" if said else name, 42)
    if table in SELF_KNOWLEDGE:
        return plain(f"{_MEASURED_NAMES[stage]}: {measured_words(dict(row))}", 42)
    if table in _TASK_TABLES:
        name = _TASK_NAMES.get(stage, _NAMES.get(stage, stage))
        describe = _LABELS.get(stage) if stage in _ALIKE else None
        said = text_of(dict(row)) if stage not in _TEXTLESS else ""
        return plain(describe(row) if describe else f"{name}: {said}" if said else name, 42)
    describe = _LABELS.get(stage)
    return plain(describe(row), 42) if describe else _NAMES.get(stage, stage)


_TASK_TABLES = {schema.name for schema in TASK_TABLES}


_TOOL_TABLES = {schema.name for schema in (SEED_TEXTS, *TOOL_TABLES)}


_TOOL_NAMES = {
    "texts": "seed text",
    "seed_pool": "text",
    "search_index": "search index",
    "call_positions": "places",
    "raw_generations": "drawn",
    "tool_results": "call",
    "perplexity_scores": "losses",
}


_JUDGE_NAMES = {
    "prompts": "seed prompt",
    "seed_pool": "prompt",
    "raw_generations": "response",
    "critiques": "critique",
    "revisions": "revision",
    "response_pairs": "response",
    "comparisons": "comparison",
    "ai_preferences": "preference",
    "judge_checks": "measure",
    "filtered_dataset": "example",
    "reward_model": "reward model",
    "rollouts": "rollout",
    "supervised_checkpoint": "supervised model",
    "refinements": "step",
}


_MEASURED_NAMES = {
    "questions": "question",
    "candidates": "candidate",
    "generation_score": "score",
    "discrimination_score": "pick",
    "discrimination_gap": "gap",
    "improver_dataset": "example of improving",
    "improver_checkpoint": "improver",
    "gap_pairs": "gaps",
    "gap_reward_model": "gap reward model",
    "curriculum_rollouts": "rollout",
    "curriculum_checkpoint": "first phase",
    "policy_references": "reference",
    "improvement_rounds": "round",
    "win_rates": "contest",
}


_UNSAID = (
    *("reward_model", "supervised_checkpoint", "evaluation"),
    *("improver_checkpoint", "gap_reward_model", "curriculum_checkpoint"),
)


_TASK_NAMES = {
    "tasks": "seed task",
    "seed_pool": "pool",
    "raw_generations": "completion",
    "candidate_tasks": "candidate",
    "similarity_scores": "similarity",
    "accepted_tasks": "accepted",
    "classified_tasks": "class",
    "instance_generations": "instances drawn",
    "task_instances": "instance",
    "task_outputs": "output",
    "paraphrases": "paraphrase",
    "pool_decisions": "decision",
    "task_decisions": "decision",
}


_ALIKE = ("decisions", "pool_decisions", "task_decisions", "fine_tuned_checkpoint", "promotion")


_TEXTLESS = ("raw_generations", "instance_generations", "classified_tasks", "evaluation", "call_positions")


_SETS = {"trained_on": "dataset", "judged_by": "evaluation"}


_NAMES = {
    "accepted": "seed",
    "seed_pool": "question",
    "raw_generations": "path",
    "voted_answers": "vote",
    "filtered_dataset": "example",
    "demonstrations": "demonstration",
    "fine_tuned_checkpoint": "checkpoint",
    "perplexity_scores": "perplexity",
}


_LABELS = {
    "accepted": lambda row: f"seed {row['source_file']}:{row['source_line']}",
    "demonstrations": lambda row: f"demonstration {row['source_file']}:{row['source_line']}",
    "raw_generations": lambda row: f"path {row['sample_index']}",
    "voted_answers": lambda row: f"vote: {row['voted_answer']}",
    "filtered_dataset": lambda row: f"example: {row['answer']}",
    "decisions": lambda row: f"{row['rule']}: {'kept' if row['kept'] else 'dropped'}",
    "pool_decisions": lambda row: f"{row['rule']}: {'kept' if row['kept'] else 'dropped'}",
    "task_decisions": lambda row: f"{row['rule']}: {'kept' if row['kept'] else 'dropped'}",
    "fine_tuned_checkpoint": lambda row: f"checkpoint of {row['examples']:,} examples",
    "promotion": lambda row: "promoted" if row["promoted"] else "not promoted",
}


@dataclass
class Family:
    """A record with its ancestors; `rows` lacks those that were revoked."""

    start: str
    walk: Walk
    rows: Mapping[str, Mapping[str, Any]]
    _tables: dict[str, str | None] = field(init=False)
    _parents: dict[str, list[tuple[str, str]]] = field(init=False)
    _roles: dict[str, str] = field(init=False)
    _answers: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self._tables = dict(self.walk.nodes.select("id", "table_name").head(400).iter_rows())
        self._roles = dict(self.walk.edges.select("parent", "role").iter_rows())
        self._answers = self._labels()
        self._parents = {}
        for child, parent, role in self.walk.edges.iter_rows():
            if child in self._tables and parent in self._tables:
                self._parents.setdefault(child, []).append((parent, role))

    def _node(self, record: str) -> dict[str, Any]:
        table = self._tables[record]
        row = self.rows.get(record)
        return {
            "id": record,
            "label": self._answers.get(record) or _label(record, table, row, self._roles.get(record, "")),
            "kind": table.split("/")[1] if table else "set",
            "href": href(record),
            "here": record == self.start,
            "revoked": table is not None and row is None,
        }

    def _labels(self) -> dict[str, str]:
        """Paths with their answers, which only the vote knows."""
        return {
            ballot["id"]: plain(f"path {self.rows[ballot['id']]['sample_index']}: {answer}", 42)
            for row in self.rows.values()
            if row["table_name"].endswith("/voted_answers")
            for ballot in row["paths"]
            if ballot["id"] in self.rows
            for answer in ["no answer" if ballot["answer"] is None else ballot["answer"]]
        }

    def graph(self) -> dict[str, Any]:
        """Nodes and edges, from what was there first to the record."""
        return {
            "nodes": [self._node(record) for record in self._tables],
            "edges": [
                {"source": parent, "target": child, "role": role.replace("_", " ")}
                for child, parents in self._parents.items()
                for parent, role in parents
            ],
        }

    def tree(self) -> dict[str, Any]:
        """The same as nested lists: `node`, `role`, `parents`; a node that stands above has none again."""
        seen: set[str] = set()

        def grow(record: str, role: str) -> dict[str, Any]:
            again = record in seen
            seen.add(record)
            parents = [] if again else [grow(*edge) for edge in self._parents.get(record, [])]
            return {"node": self._node(record), "role": role, "again": again, "parents": parents}

        return grow(self.start, "")
