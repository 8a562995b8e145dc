"""Ids by columns equal those of the plain recipe: canonical JSON and blake2b-128, one row at a time."""

from __future__ import annotations

import decimal
import enum
import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from datetime import date
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfimprove_dagster import registry
from selfimprove_dagster.lake.records import (
    Activity,
    Draft,
    Parent,
    build_records,
    recompute_ids,
)
from selfimprove_dagster.table import COMMON_COLUMNS, Table

ACTIVITY = Activity("t/pairs", {"experiment": "demo", "iteration": "000"}, "1", {}, 0)
HOSTILE = (
    "",
    "\0",
    '"',
    "\\",
    "\\u0041",
    "/",
    "\u2028\u2029",
    "\x7f\x80\x9f",
    "\ufeff\ufffe",
    "e\u0301",
    "😀",
)
CONTROLS = "".join(map(chr, range(0x20)))
TEXT = st.one_of(
    st.text(st.characters(codec="utf-8")), st.sampled_from([*HOSTILE, CONTROLS, '{"":null}', '"},{"id":"'])
)
PARENTS = st.lists(st.builds(Parent, id=TEXT, role=TEXT), max_size=5).flatmap(
    lambda parents: st.permutations(parents * 2)
)


def digest(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def reference(schema: Table, drafts: Iterable[Draft]) -> pl.DataFrame:
    """`id` and `content_hash` of each draft by the recipe in the docstring of `records`."""
    hashes = ["b2:" + digest(draft.content) for draft in drafts]
    ids = []
    for draft, content in zip(drafts, hashes, strict=True):
        parents = sorted([parent.id, parent.role] for parent in draft.parents)
        made = [schema.tag, content, parents, ACTIVITY.id, draft.sample_index]
        ids.append(f"{schema.tag}:{digest(made)}")
    return pl.DataFrame(
        {"id": ids, "content_hash": hashes}, schema={"id": pl.String, "content_hash": pl.String}
    )


def assert_as_reference(schema: Table, drafts: list[Draft]) -> pl.DataFrame:
    frame = build_records(schema, drafts, ACTIVITY)
    assert frame.schema == pl.Schema(schema.polars)
    assert frame.select("id", "content_hash").equals(reference(schema, drafts))
    assert recompute_ids(schema, frame).equals(frame.select("id", "content_hash"))
    for name in {**schema.content, **schema.measures}:
        said = [{**draft.content, **draft.measures}[name] for draft in drafts]
        expected = pl.Series(name, said, dtype=schema.polars[name])
        assert frame[name].equals(expected, null_equal=True), name
    assert frame["parents"].to_list() == [[asdict(parent) for parent in draft.parents] for draft in drafts]
    columns = frame.drop("id", "content_hash", "activity_id")
    assert build_records(schema, columns, ACTIVITY).equals(frame)
    return frame


def values_of(dtype: Any) -> st.SearchStrategy[Any]:
    """Values of a Polars type, nulls, the ends of its range and hostile text among them."""
    if isinstance(dtype, pl.List):
        return st.none() | st.lists(values_of(dtype.inner), max_size=4)
    if isinstance(dtype, pl.Struct):
        return st.fixed_dictionaries({field.name: values_of(field.dtype) for field in dtype.fields})
    floats = {"allow_nan": False, "allow_infinity": False}
    tiny = st.sampled_from([0.0, -0.0, 2.0**-20, 0.5, 1.0])
    simple: dict[Any, st.SearchStrategy[Any]] = {
        pl.String: TEXT,
        pl.Boolean: st.booleans(),
        pl.Int32: st.integers(-(2**31), 2**31 - 1) | st.sampled_from([-(2**31), 0, 1, 2**31 - 1]),
        pl.Int64: st.integers(-(2**63), 2**63 - 1) | st.sampled_from([-(2**63), 0, 1, 2**63 - 1]),
        pl.UInt32: st.integers(0, 2**32 - 1) | st.sampled_from([0, 1, 2**32 - 1]),
        pl.Float32: st.floats(width=32, **floats) | tiny,
        pl.Float64: st.floats(**floats) | tiny | st.sampled_from([1e-5, 1e-7, 1e16, 1e22, 5e-324]),
    }
    return st.none() | simple[dtype if isinstance(dtype, type) else type(dtype)]


def drafts_of(schema: Table) -> st.SearchStrategy[list[Draft]]:
    """Any rows that the table can hold."""
    content = {name: values_of(dtype) for name, dtype in schema.content.items()}
    measures = {name: values_of(dtype) for name, dtype in schema.measures.items()}
    draft = st.builds(
        Draft,
        content=st.fixed_dictionaries(content),
        parents=PARENTS,
        measures=st.fixed_dictionaries(measures),
        sample_index=st.integers(0, 2**31 - 1),
    )
    return st.lists(draft, max_size=4)


@pytest.mark.parametrize("schema", registry.tables().values(), ids=registry.tables().keys())
def test_ids_by_columns_are_the_ids_of_the_recipe(schema: Table) -> None:
    @settings(max_examples=10, deadline=None)
    @given(drafts=drafts_of(schema))
    def check(drafts: list[Draft]) -> None:
        assert_as_reference(schema, drafts)

    check()


NESTED = Table(
    "t/nested",
    'n"\\é',
    {
        "z": pl.List(pl.Struct({"id": pl.String, "b": pl.List(pl.Struct({"y": pl.Int32, "a": pl.Boolean}))})),
        "Z": pl.List(pl.List(pl.Int32)),
        "a": pl.Struct({"zeta": pl.UInt32, "alpha": pl.String}),
        'quo"te': pl.Int64,
        "é": pl.Boolean,
    },
    {"logprobs": pl.List(pl.Float32), "score": pl.Float64},
)


def nested(**change: Any) -> Draft:
    content = {
        "z": [{"id": "x", "b": [{"y": 1, "a": True}]}],
        "Z": [[1], []],
        "a": {"zeta": 1, "alpha": "é"},
        'quo"te': 1,
        "é": False,
    }
    return Draft({**content, **change}, measures={"logprobs": [-0.5], "score": 0.25})


def test_keys_of_nested_structs_are_sorted() -> None:
    drafts = [nested(), nested(z=None), nested(z=[]), nested(z=[{"id": None, "b": None}]), nested(Z=[None])]
    assert_as_reference(NESTED, drafts)


def test_keys_may_come_in_any_order() -> None:
    backwards = {"alpha": "é", "zeta": 1}
    assert_as_reference(NESTED, [nested(), nested(a=backwards)])


@pytest.mark.parametrize("values", [[None], [None, {"id": "x", "b": []}], [{"id": "x", "b": [None]}]])
def test_a_missing_struct_is_null(values: list[Any]) -> None:
    frame = build_records(NESTED, [nested(z=values), nested(a=None)], ACTIVITY)
    drafts = [nested(z=values), nested(a=None)]
    assert frame.select("id", "content_hash").equals(reference(NESTED, drafts))
    assert recompute_ids(NESTED, frame).equals(frame.select("id", "content_hash"))


@pytest.mark.parametrize("text", [*HOSTILE, CONTROLS, '"}', "\\", "}", '{"":"', "a" * 100_000])
def test_hostile_text(text: str) -> None:
    schema = Table("t/text", "t", {"text": pl.String, "texts": pl.List(pl.String)})
    parents = [Parent(text, text), Parent("b", text), Parent("a", ""), Parent(text, text)]
    assert_as_reference(schema, [Draft({"text": text, "texts": [text, None]}, parents, {}, 2**31 - 1)] * 2)


def test_parents_are_sorted_by_code_point_within_their_row() -> None:
    schema = Table("t/text", "t", {"text": pl.String})
    texts = ["b", "B", "é", "\uffff", "😀", "", "aa", "a"]
    parents = [Parent(one, other) for one in texts for other in texts]
    drafts = [Draft({"text": "x"}, some, {}, 0) for some in (parents, [], parents[::-1], parents[:1], ())]
    frame = assert_as_reference(schema, drafts)
    assert frame["id"][0] == frame["id"][2]


def test_more_rows_than_one_slice() -> None:
    schema = Table("t/text", "t", {"text": pl.String})
    drafts = [Draft({"text": str(row)}, [Parent(f"q:{row}", "prompt")], {}, row) for row in range(17_000)]
    assert_as_reference(schema, drafts)


@pytest.mark.parametrize("schema", [NESTED, *registry.tables().values()], ids=lambda schema: schema.name)
def test_no_rows(schema: Table) -> None:
    assert_as_reference(schema, [])


def test_ids_of_a_part_of_a_frame() -> None:
    frame = build_records(NESTED, [nested(Z=[[row]] * row) for row in range(9)], ACTIVITY)
    whole = pl.concat([frame, frame.reverse()])  # several chunks
    for part in (whole, whole.slice(3, 9), whole.filter(pl.col("id").is_first_distinct()), whole.sample(5)):
        assert recompute_ids(NESTED, part).equals(part.select("id", "content_hash"))


# ---- what does not fit --------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = 1


INT, TEXTS = {"value": pl.Int32}, {"value": pl.List(pl.String)}


@pytest.mark.parametrize(
    ("column", "value", "error", "message"),
    [
        (INT, "1", ValueError, "column value of t/one: Could not convert '1' with type str"),
        (INT, True, ValueError, "column value of t/one: Expected integer, got bool"),
        (INT, False, ValueError, "column value of t/one: Expected integer, got bool"),
        (
            INT,
            2**31,
            ValueError,
            "column value of t/one: Value 2147483648 too large to fit in C integer type",
        ),
        (INT, 2**64, ValueError, "column value of t/one: "),
        (INT, [1], ValueError, "column value of t/one: Could not convert"),
        (INT, float("nan"), ValueError, "^Out of range float values are not JSON compliant"),
        (INT, decimal.Decimal(1), TypeError, "^Decimal has no canonical JSON"),
        (INT, date(2020, 1, 1), TypeError, "^date has no canonical JSON"),
        (INT, Colour.RED, TypeError, "^Colour has no canonical JSON"),
        ({"value": pl.UInt32}, -1, ValueError, "column value of t/one: "),
        ({"value": pl.Int64}, 2**63, ValueError, "column value of t/one: "),
        ({"value": pl.Boolean}, 1, ValueError, "column value of t/one: Could not convert 1 with type int"),
        ({"value": pl.String}, 1, ValueError, "column value of t/one: Expected bytes, got a 'int' object"),
        ({"value": pl.String}, b"a", TypeError, "^bytes has no canonical JSON"),
        ({"value": pl.String}, "half \ud83d", ValueError, "column value of t/one: .*surrogates not allowed"),
        (TEXTS, ["half \ud83d"], ValueError, "column value of t/one: .*surrogates not allowed"),
        (TEXTS, [1], ValueError, "column value of t/one: Expected bytes, got a 'int' object"),
        (TEXTS, {"a": 1}, ValueError, "column value of t/one: "),
        (TEXTS, np.array(["a"]), TypeError, "^ndarray has no canonical JSON"),
        (
            {"value": pl.Float64},
            float("nan"),
            ValueError,
            "^Out of range float values are not JSON compliant",
        ),
        ({"value": pl.Float64}, -float("inf"), ValueError, "^Out of range float values"),
        ({"value": pl.Float64}, 2**53 + 1, ValueError, "column value of t/one: Integer value"),
        ({"value": pl.List(pl.Int64)}, [1, True], ValueError, "column value of t/one: Expected integer"),
    ],
)
@pytest.mark.parametrize("before", [0, 1])
def test_values_that_do_not_fit_are_refused(
    column: dict[str, Any], value: Any, error: type[Exception], message: str, before: int
) -> None:
    drafts = [*[Draft({"value": None})] * before, Draft({"value": value})]
    with pytest.raises(error, match=message):
        build_records(Table("t/one", "o", column), drafts, ACTIVITY)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (pl.Float64, 1),
        (pl.List(pl.Int32), (1, 2)),
        (pl.List(pl.Int32), ()),
        (pl.String, type("Text", (str,), {})("a")),
        (pl.Int32, enum.IntEnum("Level", ["LOW"])(1)),
        (pl.Struct({"b": pl.Int32, "a": pl.String}), {"a": "x"}),
        (pl.Struct({"b": pl.Int32, "a": pl.String}), {"a": "x", "b": 1, "c": 2}),
        (pl.Int32, 1.5),
    ],
)
def test_the_hash_covers_the_value_as_it_was_given(dtype: Any, value: Any) -> None:
    schema, drafts = Table("t/one", "o", {"value": dtype}), [Draft({"value": value})]
    frame = build_records(schema, drafts, ACTIVITY)
    assert frame.select("id", "content_hash").equals(reference(schema, drafts))


@pytest.mark.parametrize("value", [2**24 + 1, 2**53 + 1, 2**70, "1", "\ud800"])
def test_a_measure_that_does_not_fit_is_refused(value: Any) -> None:
    schema = Table("t/one", "o", {"value": pl.Int32}, {"score": pl.List(pl.Float32)})
    with pytest.raises(ValueError, match="column score of t/one: "):
        build_records(schema, [Draft({"value": 1}, measures={"score": [0.5, value]})], ACTIVITY)


@pytest.mark.parametrize("parent", [Parent("\ud800", "a"), Parent(1, "a"), Parent("a", 1)])  # type: ignore[arg-type]
def test_a_parent_that_does_not_fit_is_refused(parent: Parent) -> None:
    schema = Table("t/one", "o", {"value": pl.Int32})
    with pytest.raises(ValueError, match="column parents of t/one: "):
        build_records(schema, [Draft({"value": 1}, [Parent("a", "b"), parent])], ACTIVITY)


@pytest.mark.parametrize("index", [2**31, True, "1"])
def test_a_sample_index_that_does_not_fit_is_refused(index: Any) -> None:
    schema = Table("t/one", "o", {"value": pl.Int32})
    with pytest.raises(ValueError, match="column sample_index of t/one: "):
        build_records(schema, [Draft({"value": 1}, sample_index=index)], ACTIVITY)


def test_measures_may_be_no_numbers() -> None:
    schema = Table("t/one", "o", {"value": pl.Int32}, {"score": pl.Float64})
    scores = [float("inf"), -float("inf"), 1e300, 2.0**60, None, 3]
    frame = build_records(
        schema, [Draft({"value": 1}, measures={"score": score}) for score in scores], ACTIVITY
    )
    assert frame["score"].to_list() == scores


# ---- drafts as a frame --------------------------------------------------------------------------------


def test_a_frame_of_drafts_has_exactly_the_columns_of_its_table() -> None:
    frame = build_records(NESTED, [nested()], ACTIVITY).drop("id", "content_hash", "activity_id")
    with pytest.raises(KeyError, match=r"columns of t/nested do not match its schema: \['score'\]"):
        build_records(NESTED, frame.drop("score"), ACTIVITY)
    with pytest.raises(KeyError, match=r"\['id'\]"):
        build_records(NESTED, frame.with_columns(id=pl.lit("n:1")), ACTIVITY)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pl.lit(1, pl.Int32).alias('quo"te'), r'column quo"te of t/nested: Int32 where Int64 is due'),
        (
            pl.lit(1, pl.Int64).alias("sample_index"),
            "sample_index of t/nested: Int64 where Int32 is due",
        ),
        (pl.lit(None, pl.Int32).alias("sample_index"), "sample_index of t/nested: a value is missing"),
        (
            pl.lit(None, COMMON_COLUMNS["parents"]).alias("parents"),
            "parents of t/nested: a value is missing",
        ),
    ],
)
def test_a_column_of_a_frame_that_does_not_fit_is_refused(column: pl.Expr, message: str) -> None:
    frame = build_records(NESTED, [nested()], ACTIVITY).drop("id", "content_hash", "activity_id")
    with pytest.raises(ValueError, match=message):
        build_records(NESTED, frame.with_columns(column), ACTIVITY)
