"""Explain why a record is in the training set or not: every decision on it and on its ancestors."""

from __future__ import annotations

from collections import Counter

from selfimprove_dagster import registry, words
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lineage.explanation import Explanation, Use, explanation, shown_verdict
from selfimprove_dagster.lineage.iteration import Step, all_revoked, dataset_table
from selfimprove_dagster.lineage.story import Story, declared, is_decision
from selfimprove_dagster.lineage.walk import Lineage, Place
from selfimprove_dagster.shared_tables import REJECTED_SEEDS, REVIEW_LABELS
from selfimprove_dagster.table import Row, sentence_of
from selfimprove_dagster.words import SHOWN, count

__all__ = ["Explanation", "Use", "explain", "method_of"]


def explain(lake: Lake, prefix: str) -> Explanation:
    """Return the explanation of the only record whose id starts with `prefix`. Raises RecordNotFound."""
    lineage = Lineage(lake)
    place = lineage.find(prefix)
    row = lineage.rows([place.id], withdrawn=True)[place.id]
    if place.iteration is not None:
        return Story(lineage, place, row).explained()
    step = Step(place.table, sentence_of(registry.tables().get(place.table), row), place.id)
    gone = all_revoked(lake, place.experiment, {place.id})
    if place.table == REVIEW_LABELS.name:
        verdict = (
            "a human label: it measures the judge, and is trained on only if `review comparisons` wrote "
            f"it to a file that an experiment names; {step.reason}"
        )
        return explanation(place, verdict, steps=(step, *gone))
    if place.table == REJECTED_SEEDS.name:
        dropped = Step(place.table, row["reason"], place.id, passed=False)
        return explanation(place, step.reason, in_dataset=False, steps=(dropped, *gone))
    return _of_source(lineage, place, row, gone)


def method_of(lake: Lake, table: str, experiment: str) -> str | None:
    """Return the method of a record's experiment: the method of its table, or, for imported records, the
    method that reads the table and has made tables of the experiment. None if there is none yet."""
    method = table.split("/")[0]
    if method in registry.methods():
        return method
    made = {manifest.table.split("/")[0] for manifest in lake.manifests(experiment=experiment)}
    if method in made - {"seeds", "reviews"}:
        return method  # a method that is not installed anymore
    readers = (
        one.name for one in registry.methods().values() if table in {given.name for given in one.inputs}
    )
    return next((name for name in readers if name in made), None)


def _of_source(lineage: Lineage, place: Place, row: Row, gone: list[Step]) -> Explanation:
    """Explain an imported record: its source, the iterations that used it, and its descendants."""
    table, method = registry.tables().get(place.table), method_of(lineage.lake, place.table, place.experiment)
    noun = table.noun if table is not None and table.noun != "row" else "seed"
    where = words.source_of(row) if row.get("source_file") else place.experiment
    accepted = Step(place.table, sentence_of(table, row), place.id, passed=True)
    what = f"{'an' if noun[0] in 'aeiou' else 'a'} {noun} of {where}"
    edges = lineage.children([place.id])
    edges = edges.filter(experiment=place.experiment)
    used = lineage.rows(edges.filter(edges["role"] != SHOWN)["child"], withdrawn=True).values()
    pooled = sorted(
        (one for one in used if not is_decision(one)), key=lambda one: (one["iteration"], one["id"])
    )
    shown = edges.filter(edges["role"] == SHOWN, edges["table_name"] != dataset_table(method or "", {}))
    if method is None or not (pooled or len(shown)):
        verdict = f"{what}: no iteration has used it yet"
        return explanation(place, verdict, in_dataset=None if method else False, steps=(accepted, *gone))
    if not pooled:
        uses = f"{count(len(shown), 'prompt')} of {count(shown['iteration'].n_unique(), 'iteration')}"
        verdict = f"{what}, shown in {uses}; it is not itself trained on"
        return explanation(place, verdict, steps=(accepted, *gone))
    stories = [
        Story(lineage, Place(one["id"], one["table_name"], one["experiment"], one["iteration"]), one)
        for one in pooled
    ]
    explain = declared(method)
    if explain.shows:
        return _of_shown(place, what, stories, accepted, gone)
    uses_of = [
        Use(
            one.iteration.number,
            one.place.id,
            dict(Counter(fate.rule or "kept" for fate in one.fates).most_common()),
        )
        for one in stories
    ]
    total = sum((Counter(use.paths) for use in uses_of), Counter[str]())
    verdict = f"{what}: used in {count(len(uses_of), 'iteration')}"
    has_filter = bool(total) or any(one.iteration.dataset for one in stories)
    in_dataset: bool | None = total["kept"] > 0 and not gone
    if has_filter:
        verdict += f", {count(total.total(), explain.noun)}, {total['kept']:,} kept"
    else:
        verdict, in_dataset = f"{verdict}; nothing is trained on it", None
    if gone:
        verdict = f"{gone[0].reason}; {verdict}"
    return explanation(
        place,
        verdict,
        in_dataset=in_dataset,
        steps=(accepted, *gone),
        uses=tuple(uses_of) if has_filter else (),
    )


def _of_shown(place: Place, what: str, stories: list[Story], accepted: Step, gone: list[Step]) -> Explanation:
    """Explain a seed that is used as a demonstration: the results of its prompts and its own instances."""
    showings = tuple(showing for one in stories for showing in one.showings)
    examples = [row for one in stories for row in one.examples(one.row)]
    decided = [step for one in stories for step in one.on_parents()]
    dropped = next((step for step in decided if step.passed is False), None)
    verdict = what + (
        f", removed from the pool by the rule {dropped.rule}: {dropped.reason}" if dropped else ""
    )
    verdict += f"; {shown_verdict(showings)}"
    if examples:
        verdict += f"; {count(len(examples), 'example')} of its own instances"
    if gone:
        verdict = f"{gone[0].reason}, so it is excluded from later reads; otherwise: {verdict}"
    in_dataset = bool(examples) and not gone if examples or dropped or gone else None
    return explanation(
        place, verdict, in_dataset=in_dataset, steps=(accepted, *decided, *gone), showings=showings
    )
