"""What the tables of examples and of dropped candidates show, method by method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

HERE = "WHERE experiment = $experiment AND iteration = $iteration"


_SO_FAR = "WHERE experiment = $experiment AND iteration <= $iteration"


@dataclass(frozen=True)
class Column:
    """One column besides the text: heading, column of the query, its name in `sort`, and whether a number."""

    heading: str
    name: str
    sort: str = ""
    number: bool = False


@dataclass(frozen=True)
class Facet:
    """A column that is offered as a choice, under its parameter; of a column of lists, their members are."""

    parameter: str
    column: str
    many: bool = False


_RULE = Facet("rule", "rule")


@dataclass(frozen=True)
class Listing:
    """One searchable table: a query, what may be asked of it, and how it is shown.

    The query gives `id`, the record that a row leads to (`link`), `title` and `body` besides the columns.
    `needed` are the stages that must be committed. `asks` says in
    which texts words are looked for, `facets` are the columns offered as choices, `between` the
    one that `least` and `most` bound, `words` those in which words are looked for. A dropped row also has
    `rule`, `reason` and `nearest_id`.
    """

    noun: str
    about: str
    text: str
    asks: str
    needed: tuple[str, ...]
    source: str
    select: str
    words: tuple[str, ...]
    facets: tuple[Facet, ...]
    columns: tuple[Column, ...]
    default: str
    between: tuple[str, str] | None = None
    answer: bool = False
    readable: bool = False


_SCORE = (Column("rule", "rule", "rule"), Column("score", "score", "score", True))


_SCORES = (*_SCORE, Column("threshold", "threshold", number=True))


_SHARE = Column("vote share", "vote_share", "share", True)


_PERPLEXITY = Column("perplexity", "perplexity", "perplexity", True)


_ANSWER, _FORMAT = Column("answer", "answer", "answer"), Column("format", "format", "format")


_LMSI_EXAMPLES = Listing(
    noun="example",
    about="",
    text="question and completion",
    asks="prompt or completion",
    needed=("filtered_dataset",),
    source=f'FROM "lmsi"."filtered_dataset" {HERE}',
    select='id, id AS link, "format", question AS title, left(completion, 400) AS body, answer, vote_share, '
    "perplexity",
    words=("prompt", "completion"),
    facets=(Facet("format", '"format"'),),
    columns=(_ANSWER, _FORMAT, _SHARE, _PERPLEXITY),
    default="-share",
    between=("Vote share", "vote_share"),
    answer=True,
)


_LMSI_DROPPED = Listing(
    noun="path",
    about="Paths that did not become examples, each with the rule that dropped it, its score, and the "
    "threshold.",
    text="question and path",
    asks="question or path",
    needed=("decisions", "raw_generations", "voted_answers"),
    source=f"""FROM "lmsi"."decisions" AS decided
LEFT JOIN (SELECT id, text FROM "lmsi"."raw_generations" {HERE}) AS path ON path.id = decided.candidate_id
LEFT JOIN (
    SELECT ballot.id AS path_id, ballot.answer AS answer, * EXCLUDE (ballot)
    FROM (
        SELECT question, voted_answer, vote_share, unnest(paths) AS ballot
        FROM "lmsi"."voted_answers" {HERE}
    )
) AS vote ON vote.path_id = decided.candidate_id
{HERE} AND NOT kept""",
    select="decided.id AS id, candidate_id AS link, rule, reason, score, threshold, nearest_id, answer, "
    "vote_share, left(question, 400) AS title, left(text, 400) AS body",
    words=("text", "question"),
    facets=(_RULE,),
    columns=(_ANSWER, *_SCORES, _SHARE),
    default="rule",
    between=("Vote share", "vote_share"),
    answer=True,
    readable=True,
)


def _examples(method: str, scores: tuple[Column, ...]) -> Listing:
    measured = "".join(f", {column.name}" for column in scores)
    return Listing(
        noun="example",
        about="",
        text="instruction and input",
        asks="instruction, input or output",
        needed=("filtered_dataset",),
        source=f'FROM "{method}"."filtered_dataset" {HERE}',
        select='id, id AS link, "format", left(instruction, 400) AS title, left(input, 400) AS body, '
        f"left(answer, 400) AS answer{measured}",
        words=("instruction", "input", "answer"),
        facets=(Facet("format", '"format"'),),
        columns=(Column("output", "answer", "answer"), _FORMAT, *scores),
        default="answer",
        between=("ROUGE-L", "rouge_l") if scores else None,
    )


def dropped(
    method: str, table: str, about: str, noun: str, texts: str, needed: tuple[str, ...], text: str
) -> Listing:
    return Listing(
        noun=noun,
        about=about,
        text=text,
        asks="text or reason",
        needed=(table, *needed),
        source=f'FROM "{method}"."{table}" AS decided LEFT JOIN ({texts}) AS said '
        f"ON said.of = decided.candidate_id {HERE} AND NOT kept",
        select="decided.id AS id, candidate_id AS link, rule, reason, score, threshold, nearest_id, "
        "left(title, 400) AS title, left(body, 400) AS body",
        words=("title", "body", "reason"),
        facets=(_RULE,),
        columns=_SCORES,
        default="rule",
        between=("Score", "score"),
    )


_POOL = "Tasks that are out of the pool of this iteration: banned, or replaced by a later version."


_CANDIDATES = (
    "What was read out of the completions and did not join the pool, each with the rule that dropped it, its "
    "score, and the threshold."
)


_INSTANCES = "Of all iterations so far, what did not become an example, with the rule that dropped it."


def _pool(method: str) -> Listing:
    texts = (
        'SELECT id AS of, instruction AS title, NULL AS body FROM "seeds"."tasks" '
        "WHERE experiment = $experiment UNION ALL "
        f'SELECT id, instruction, NULL FROM "{method}"."accepted_tasks" {_SO_FAR}'
    )
    return dropped(method, "pool_decisions", _POOL, "task", texts, ("accepted_tasks",), "task")


def _candidates(method: str, given: str) -> Listing:
    texts = f'SELECT id AS of, instruction AS title, {given} AS body FROM "{method}"."candidate_tasks" {HERE}'
    needed = ("candidate_tasks",)
    return dropped(method, "task_decisions", _CANDIDATES, "candidate", texts, needed, "instruction")


_SI_INSTANCES = (
    "SELECT id AS of, instruction AS title, concat_ws(' → ', nullif(input, ''), output) AS body "
    f'FROM "self_instruct"."task_instances" {_SO_FAR}'
)


_UI_INSTANCES = (
    "SELECT id AS of, instruction AS title, concat_ws(' → ', nullif(input, ''), trim(text)) AS body "
    f'FROM "unnatural_instructions"."task_outputs" {_SO_FAR} UNION ALL '
    f'SELECT id, instruction, text FROM "unnatural_instructions"."paraphrases" {_SO_FAR}'
)


_SIMILARITY = Column("ROUGE-L", "rouge_l", "rouge", True)


_SAVED = Column("saves", "saved", "saved", True)


_OF_SAVED = ("Nats saved", "saved")


_WRITTEN = """CASE WHEN call.arguments IS NULL THEN drawn.text
ELSE '[' || call.tool || '(' || call.arguments || ')' || coalesce(' → ' || call.result, '') || ']' END"""


_TOOL_EXAMPLES = Listing(
    noun="example",
    about="",
    text="text with its calls",
    asks="texts and calls",
    needed=("filtered_dataset",),
    source="FROM (SELECT *, list_sort(list_distinct([call.tool for call in calls])) AS tools, "
    f'len(calls) AS made, loss_reduction AS saved FROM "toolformer"."filtered_dataset") {HERE}',
    select="id, id AS link, left(completion, 400) AS title, NULL AS body, "
    "array_to_string(tools, ', ') AS tools_named, made, saved",
    words=("completion",),
    facets=(Facet("tool", "tools", many=True),),
    columns=(
        Column("tools", "tools_named", "tools"),
        Column("calls", "made", "calls", True),
        _SAVED,
    ),
    default="-saved",
    between=_OF_SAVED,
)


_TOOL_DROPPED = Listing(
    noun="call",
    about="Calls that were tried and do not stand in the dataset, each with the rule that dropped it. What a "
    "call saves is by how many nats it lowers the weighted loss of the tokens after it; calls that could not "
    "reach the threshold were not scored to the end.",
    text="call, and where it was tried",
    asks="calls and reasons",
    needed=("decisions", "tool_results", "perplexity_scores"),
    source=f"""FROM (
    SELECT decided.*, call.tool AS tool, {_WRITTEN} AS title,
        right(left(said.text, call.position), 90) || '▸' || substr(said.text, call.position + 1, 70) AS body,
        CASE WHEN loss_call IS NOT NULL
            THEN least(loss_no_call, loss_call) - loss_call_with_result END AS saved
    FROM "toolformer"."decisions" AS decided
    JOIN (FROM "toolformer"."tool_results" {HERE}) AS call ON call.id = decided.candidate_id
    LEFT JOIN (FROM "toolformer"."seed_pool" {HERE}) AS said ON said.id = call.text_id
    LEFT JOIN (FROM "toolformer"."raw_generations" {HERE}) AS drawn ON drawn.id = call.generation_id
    LEFT JOIN (FROM "toolformer"."perplexity_scores" {HERE}) AS lost ON lost.candidate_id = call.id
) {HERE} AND NOT kept""",
    select="id, candidate_id AS link, rule, reason, score, threshold, nearest_id, tool, saved, "
    "left(title, 400) AS title, body",
    words=("title", "body", "reason"),
    facets=(Facet("tool", "tool"), _RULE),
    columns=(
        Column("tool", "tool", "tool"),
        Column("rule", "rule", "rule"),
        _SAVED,
        Column("threshold", "threshold", number=True),
    ),
    default="-saved",
    between=_OF_SAVED,
)


EXAMPLES: Mapping[str, Listing] = {
    "lmsi": _LMSI_EXAMPLES,
    "self_instruct": _examples("self_instruct", (_SIMILARITY, _PERPLEXITY)),
    "unnatural_instructions": _examples("unnatural_instructions", ()),
    "toolformer": _TOOL_EXAMPLES,
}
"""The examples of an iteration."""


DROPPED: Mapping[str, Mapping[str, Listing]] = {
    "lmsi": {"paths": _LMSI_DROPPED},
    "self_instruct": {
        "tasks": _candidates("self_instruct", "problem"),
        "instances": dropped(
            "self_instruct",
            "decisions",
            _INSTANCES,
            "instance",
            _SI_INSTANCES,
            ("task_instances",),
            "instruction, input and output",
        ),
        "pool": _pool("self_instruct"),
    },
    "unnatural_instructions": {
        "tasks": _candidates("unnatural_instructions", "input"),
        "instances": dropped(
            "unnatural_instructions",
            "decisions",
            _INSTANCES,
            "output or paraphrase",
            _UI_INSTANCES,
            ("task_outputs", "paraphrases"),
            "instruction and what was drawn for it",
        ),
        "pool": _pool("unnatural_instructions"),
    },
    "toolformer": {"calls": _TOOL_DROPPED},
}
"""What an iteration dropped, by what was dropped; the first is shown where nothing else is asked for."""
