"""Records: ids that anyone can recompute, whatever the rows say and however they were stored."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfimprove_dagster import registry
from selfimprove_dagster.lake.lake import Lake
from selfimprove_dagster.lake.records import (
    Activity,
    Draft,
    Parent,
    build_records,
    canonical_json,
    content_hash,
    recompute_ids,
    record_id,
)
from selfimprove_dagster.methods.lmsi.tables import SEED_POOL
from selfimprove_dagster.table import Table

SURROGATES = st.text(st.characters())  # any code point, halves of surrogate pairs among them
WRITABLE = st.text(st.characters(codec="utf-8"))
PARENTS = st.lists(st.builds(Parent, id=WRITABLE, role=WRITABLE), max_size=5)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | SURROGATES,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SURROGATES, inner, max_size=4),
    max_leaves=12,
)

ACTIVITY = Activity("lmsi/seed_pool", {"experiment": "demo", "iteration": "000"}, "1", {}, 0)


def test_a_record_id_is_a_hash_that_anyone_can_recompute() -> None:
    """The whole recipe, in plain Python: blake2b-128 of canonical JSON."""

    def digest(text: str) -> str:
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    said = "b2:" + digest('{"licence":"MIT","question":"Wie groß?"}')
    assert content_hash({"question": "Wie groß?", "licence": "MIT"}) == said
    made = "q:" + digest(f'["q","{said}",[["seed:1","seed"],["seed:2","seed"]],"act:9",3]')
    assert record_id("q", said, [Parent("seed:2", "seed"), Parent("seed:1", "seed")], "act:9", 3) == made


def test_ids_do_not_change_from_release_to_release() -> None:
    """Lineage that was stored yesterday must verify tomorrow."""
    assert ACTIVITY.id == "act:4d382273628b3fb313b433bd840a9074"
    draft = Draft({"question": "1 + 1?", "source_file": "a", "source_line": 1, "licence": "MIT"})
    assert build_records(SEED_POOL, [draft], ACTIVITY)["id"].to_list() == [
        "q:fa6a4703dba4247d5ee341e0cbecad33"
    ]


@given(parents=PARENTS, order=st.randoms(use_true_random=False))
def test_the_order_of_parents_does_not_matter(parents: list[Parent], order: random.Random) -> None:
    shuffled = order.sample(parents, len(parents))
    assert record_id("q", "b2:0", parents, "act:0") == record_id("q", "b2:0", shuffled, "act:0")


@given(content=st.dictionaries(SURROGATES, PLAIN, max_size=6))
def test_the_order_of_keys_does_not_matter(content: dict[str, Any]) -> None:
    backwards = dict(reversed(content.items()))
    assert content_hash(content) == content_hash(backwards)


@given(value=PLAIN)
def test_canonical_json_says_the_value_and_nothing_else(value: Any) -> None:
    text = canonical_json(value)
    assert json.loads(text.decode("utf-8", errors="surrogatepass")) == value
    assert canonical_json(json.loads(text.decode("utf-8", errors="surrogatepass"))) == text


@given(one=PLAIN, other=PLAIN)
def test_different_contents_have_different_hashes(one: Any, other: Any) -> None:
    same = canonical_json(one) == canonical_json(other)
    assert (content_hash({"x": one}) == content_hash({"x": other})) == same


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [-float("inf")], object(), {"path": Path()}])
def test_what_has_no_canonical_json_is_refused(value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        canonical_json(value)


@pytest.mark.parametrize(
    "change",
    [
        {"table": "lmsi/raw_generations"},
        {"partition": {"experiment": "demo", "iteration": "001"}},
        {"code_version": "2"},
        {"parameters": {"temperature": 0.7}},
        {"seed": 1},
        {"inputs": ("act:1",)},
        {"model_id": "b2:1"},
    ],
)
def test_an_activity_id_follows_from_everything_that_determines_the_output(change: dict[str, Any]) -> None:
    given: dict[str, Any] = {name: getattr(ACTIVITY, name) for name in ACTIVITY.__dataclass_fields__}
    assert Activity(**{**given, **change}).id != ACTIVITY.id


def test_an_activity_id_ignores_runs_times_and_the_order_of_inputs() -> None:
    one = Activity(
        "t/s", {"experiment": "demo"}, "1", {}, 0, ("act:1", "act:2"), None, {"dagster_run_id": "a"}
    )
    two = Activity("t/s", {"experiment": "demo"}, "1", {}, 0, ("act:2", "act:1"), None, {"seconds": 3.0})
    assert one.id == two.id


@given(parameters=st.dictionaries(WRITABLE, PLAIN, max_size=4))
def test_an_activity_survives_its_json(parameters: dict[str, Any]) -> None:
    activity = Activity("t/s", {"experiment": "demo"}, "1", {**parameters, "pair": (1, 2), "set": {3}}, 7)
    again = Activity.from_json(json.loads(json.dumps(activity.to_json())))
    assert again.id == activity.id == activity.to_json()["id"]


# ---- rows -------------------------------------------------------------------------------------------


def values_of(dtype: Any, finite: bool = False) -> st.SearchStrategy[Any]:
    """Values of a Polars type, nulls and the ends of its range among them."""
    if isinstance(dtype, pl.List):
        return st.none() | st.lists(values_of(dtype.inner, finite), max_size=4)
    if isinstance(dtype, pl.Struct):
        return st.fixed_dictionaries({field.name: values_of(field.dtype, finite) for field in dtype.fields})
    bounds = {"allow_nan": not finite, "allow_infinity": not finite}
    simple: dict[Any, st.SearchStrategy[Any]] = {
        pl.String: WRITABLE,
        pl.Boolean: st.booleans(),
        pl.Int32: st.integers(-(2**31), 2**31 - 1),
        pl.Int64: st.integers(-(2**63), 2**63 - 1),
        pl.UInt32: st.integers(0, 2**32 - 1),
        pl.Float32: st.floats(width=32, **bounds),
        pl.Float64: st.floats(**bounds),
    }
    return st.none() | simple[dtype if isinstance(dtype, type) else type(dtype)]


def drafts_of(schema: Table) -> st.SearchStrategy[list[Draft]]:
    """Any rows that the table can hold."""
    return st.lists(
        st.builds(
            Draft,
            # What is hashed is JSON, which has no infinity.
            content=st.fixed_dictionaries(
                {name: values_of(dtype, finite=True) for name, dtype in schema.content.items()}
            ),
            parents=PARENTS,
            measures=st.fixed_dictionaries(
                {name: values_of(dtype) for name, dtype in schema.measures.items()}
            ),
            sample_index=st.integers(0, 2**31 - 1),
        ),
        max_size=3,
    )


@pytest.mark.parametrize("schema", registry.tables().values(), ids=registry.tables().keys())
def test_ids_recomputed_from_parquet_are_the_ids_that_were_given(
    schema: Table, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """For any rows of every table: what Parquet gives back hashes to what was hashed before it was stored."""
    folder = tmp_path_factory.mktemp("lake")

    # Eighty tables of a few types of columns: between them, thousands of rows.
    @settings(max_examples=30)
    @given(drafts=drafts_of(schema))
    def check(drafts: list[Draft]) -> None:
        activity = Activity(schema.name, {"experiment": "demo", "iteration": "000"}, "1", {}, 0)
        frame = build_records(schema, drafts, activity)
        assert frame.schema == pl.Schema(schema.polars)
        frame.write_parquet(folder / "part.parquet", compression="zstd")
        stored = pl.read_parquet(folder / "part.parquet")
        assert recompute_ids(schema, stored).equals(stored.select("id", "content_hash"))
        assert stored["id"].to_list() == frame["id"].to_list()

    check()


def test_ids_recomputed_from_the_lake_are_the_ids_that_were_given(tmp_path: Path) -> None:
    drafts = [
        Draft({"question": text, "source_file": "a", "source_line": 1, "licence": ""}) for text in "aé\0😀"
    ]
    built = build_records(SEED_POOL, drafts, ACTIVITY)
    Lake(tmp_path).write(SEED_POOL, ACTIVITY, built)
    stored = Lake(tmp_path).read(SEED_POOL.name, ACTIVITY.partition)
    assert recompute_ids(SEED_POOL, stored).equals(built.select("id", "content_hash"))


PAIRS = Table("t/pairs", "pair", {"name": pl.String, "ids": pl.List(pl.Int32), "sure": pl.Boolean})


@pytest.mark.parametrize(
    "content",
    [
        {"name": 5, "ids": [], "sure": True},
        {"name": "a", "ids": [2**31], "sure": True},
        {"name": "a", "ids": ["1"], "sure": True},
        {"name": "a", "ids": [], "sure": 1},
        {"name": "half \ud83d", "ids": [], "sure": True},
    ],
)
def test_a_value_that_would_be_stored_as_something_else_is_refused(content: dict[str, Any]) -> None:
    """Its row would not say what its hash covers."""
    with pytest.raises(ValueError, match=r"column (name|ids|sure) of t/pairs: "):
        build_records(PAIRS, [Draft(content)], ACTIVITY)


def without(column: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda content: {name: value for name, value in content.items() if name != column}


@pytest.mark.parametrize("change", [without("sure"), lambda content: {**content, "extra": 1}])
def test_a_draft_has_exactly_the_columns_of_its_table(change: Callable[..., dict[str, Any]]) -> None:
    content = change({"name": "a", "ids": [], "sure": True})
    with pytest.raises(KeyError, match=r"columns of t/pairs do not match its schema: \['(sure|extra)'\]"):
        build_records(PAIRS, [Draft(content)], ACTIVITY)


def test_a_forged_row_is_found() -> None:
    drafts = [Draft({"name": name, "ids": [1], "sure": True}, [Parent("q:1", "prompt")]) for name in "ab"]
    frame = build_records(PAIRS, drafts, ACTIVITY)
    forged = frame.with_columns(name=pl.Series(["a", "B"]))
    right = recompute_ids(PAIRS, forged)["id"] == forged["id"]
    assert right.to_list() == [True, False]


def test_no_rows_make_an_empty_table() -> None:
    assert build_records(PAIRS, [], ACTIVITY).schema == pl.Schema(PAIRS.polars)
