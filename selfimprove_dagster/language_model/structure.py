"""Define what a generated text must match: a regular expression or a JSON schema.

Engines sample only tokens with which the text can still match, each by its own means. Whether a finished text does
match is decided here, by `re` and `jsonschema`, whichever engine wrote it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from selfimprove_dagster.errors import ModelError, first_line

_JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON on one line, as `json.dumps` writes it: a model could write flexible whitespace without end."""


@dataclass(frozen=True)
class Structure:
    """A regular expression or a JSON schema that a whole text must match; one of the two is set.

    `json_schema` is JSON text and not a mapping, since the model writes the properties in the schema's order, which
    records with sorted keys would not keep. Raises ValueError if both or none are set.
    """

    regex: str | None = None
    json_schema: str | None = None

    def __post_init__(self) -> None:
        if (self.regex is None) == (self.json_schema is None):
            raise ValueError("give either regex or json_schema")

    @classmethod
    def read(cls, path: str | Path) -> Structure:
        """Return the structure of a JSON schema in a file. Raises ValueError if the file cannot be read as JSON."""
        try:
            return cls.of_schema(json.loads(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise ValueError(f"{path} is no JSON: {first_line(error)}") from None

    @classmethod
    def of_schema(cls, schema: Mapping[str, Any]) -> Structure:
        """Return the structure of a JSON schema. Raises ValueError if it is no JSON."""
        try:
            return cls(json_schema=json.dumps(schema, ensure_ascii=False, allow_nan=False))
        except TypeError as error:
            raise ValueError(f"the JSON schema is no JSON: {error}") from None

    @property
    def parameters(self) -> dict[str, str]:
        """Return the arguments that make an equal structure, for the record of an activity."""
        return {name: value for name, value in vars(self).items() if value is not None}

    @property
    def schema(self) -> Any:
        """Return the JSON schema as a mapping. Raises ValueError if there is none, or it is no JSON."""
        if self.json_schema is None:
            raise ValueError("the structure is a regular expression")
        return json.loads(self.json_schema)

    @property
    def vllm_fields(self) -> dict[str, Any]:
        """Return the fields of vLLM's `StructuredOutputsParams`, which its server reads, too."""
        return {"regex": self.regex} if self.regex is not None else {"json": self.schema}

    def __str__(self) -> str:
        return f"the regular expression {self.regex}" if self.regex is not None else "the JSON schema"

    def check(self) -> None:
        """Raise ValueError with the reason if no text can be checked or generated with this structure.

        What the transformers engine cannot generate is found only if llguidance is installed.
        """
        if self.regex is not None:
            try:
                re.compile(self.regex)
            except re.error as error:
                raise ValueError(f"{self.regex!r} is no regular expression: {error}") from None
        else:
            _check_schema(self.json_schema or "")
        if find_spec("llguidance") is not None:
            from llguidance import LLMatcher

            if problem := LLMatcher.validate_grammar(self.grammar()):
                raise ValueError(f"{self} cannot be generated: {' '.join(problem.split())[:300]}")

    def grammar(self) -> str:
        """Return the grammar of the library llguidance for this structure.

        Raises ModelError if the library is missing.
        """
        try:
            from llguidance import LLMatcher
        except ImportError as error:
            raise ModelError(
                f"the engine transformers needs llguidance for prompts.structure, which cannot be imported ({error}): "
                "install the extra `selfimprove_dagster[structured]`"
            ) from error
        if self.regex is not None:
            return str(LLMatcher.grammar_from_regex(self.regex))
        return str(LLMatcher.grammar_from_json_schema(self.json_schema, overrides=_JSON_STYLE))

    def mismatch(self, text: str) -> str | None:
        """Return why the whole text does not match, or None if it does. White space around JSON is allowed."""
        if self.regex is not None:
            return None if re.fullmatch(self.regex, text) else f"it does not match {self}"
        try:
            value = json.loads(text, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            return f"it is no JSON: {first_line(error)}"
        wrong = next(_validator(self.json_schema or "").iter_errors(value), None)
        return None if wrong is None else f"{wrong.json_path}: {first_line(wrong)}"


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number in JSON")


@lru_cache(maxsize=64)
def _validator(schema: str) -> Any:
    """Return the validator of a schema, of the draft that it names; it fetches nothing from the net."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing import Registry

    parsed = json.loads(schema)
    kind: Any = validator_for(parsed, default=Draft202012Validator)
    return kind(parsed, registry=Registry())


def _check_schema(schema: str) -> None:
    """Raise ValueError with the reason if a JSON schema is wrong or refers to something outside of it."""
    from jsonschema.exceptions import SchemaError
    from referencing import Registry, Resource
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    parsed = json.loads(schema)
    if not isinstance(parsed, dict):
        raise ValueError(f"a JSON schema is an object, not {type(parsed).__name__}")
    if not isinstance(parsed.get("$schema", ""), str):
        raise ValueError("$schema of the JSON schema must be the address of a draft")
    try:
        type(_validator(schema)).check_schema(parsed)
    except SchemaError as error:
        raise ValueError(f"the JSON schema is wrong at {error.json_path}: {first_line(error)}") from None
    root: Any = Resource.from_contents(parsed, default_specification=DRAFT202012)
    resolver = Registry().resolver_with_root(root)
    for reference in _references(parsed):
        try:
            resolver.lookup(reference)
        except Unresolvable:
            raise ValueError(f"the JSON schema refers to {reference}, which is not in it") from None


def _references(schema: Any) -> Iterator[str]:
    """Yield every `$ref` in a schema."""
    if isinstance(schema, dict):
        if isinstance(reference := schema.get("$ref"), str):
            yield reference
        for value in schema.values():
            yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)
