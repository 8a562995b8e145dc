"""Read experiment files: YAML files that are validated field by field and completed from a preset.

    name: mine
    preset: practical
    model: {path: meta-llama/Llama-3.2-1B}
    seeds: {file: questions.jsonl}
    evaluation: {file: heldout.jsonl}

Missing fields come from the preset of the method: `paper` has the values of the method's paper, `practical`
has values that work for a small model on a small machine, and `small_llm`, `7b` and `70b` have values for models of
these sizes (`experiment.sizes`). Each preset lists its differences from the paper, which `selfimprove run` prints.

An experiment can chain methods, which then take turns in improving one line of champions:

    methods: [constitutional, rlaif]
    model: {path: mine}
    constitutional: {revisions: {rounds: 2}}
    rlaif: {judge: {principles: 4}}

Paths are relative to the folder of the file. In paths, `${NAME}` and `${NAME:-default}` are replaced from the
environment; the default is used if the variable is unset or empty. The word `embedded` denotes the model,
questions and demonstrations that are part of the package.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from selfimprove_dagster import own_code, registry
from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.experiment.paths import mark_of
from selfimprove_dagster.experiment.preset import Preset
from selfimprove_dagster.experiment.sections import Instead, NamesPath, Whole, section_in
from selfimprove_dagster.rows import is_on_hub

_OF_ALL = (
    "name",
    "method",
    "methods",
    "seed",
    "model",
    "budget",
    "retries",
    "on_stop",
    "loop",
    "checkpoints",
)


def load_chain(path: str | Path) -> list[Experiment]:
    """Read and validate an experiment file: the settings of its method, or of each of its methods in order.

    Raises ExperimentError naming file, field and what is allowed.
    """
    path = Path(path)
    return parse_chain(_read(path), folder=path.parent, origin=str(path))


def _read(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ExperimentError(
            f"there is no experiment file {path}; write one, or choose another name"
        ) from None
    except UnicodeDecodeError as error:
        raise ExperimentError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise ExperimentError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ExperimentError(f"{path} is not YAML: {error}") from None
    if not isinstance(data, dict):
        raise ExperimentError(f"{path} must contain fields and values, such as `name: {path.stem}`")
    data.setdefault("name", path.stem)
    if data["name"] != path.stem:
        raise ExperimentError(f"{path}: name is {data['name']!r} but must equal the file name, {path.stem!r}")
    return data


def parse_chain(data: Mapping[str, Any], *, folder: Path, origin: str = "experiment") -> list[Experiment]:
    """Validate plain data as one method's experiment, or as a chain of several methods'.

    In a chain, the sections of a method are under its name. Fields at the top level apply to every method
    that has such a field.
    """
    if not data.get("methods"):
        return [parse_experiment(data, folder=folder, origin=origin)]
    methods = data["methods"]
    if not isinstance(methods, list) or not methods:
        raise ExperimentError(f"{origin}: methods must be a list, such as [constitutional, rlaif]")
    for method in methods:
        _one_of(registry.methods(), method, f"{origin}: methods")
    if len({*methods}) < len(methods):
        raise ExperimentError(f"{origin}: methods contains a name twice; each method runs once per iteration")
    if "method" in data:
        raise ExperimentError(f"{origin} has both method and methods; leave one out")
    shared = {name: value for name, value in data.items() if name not in methods}
    kinds = {method: registry.method(method).experiment for method in methods}
    fields = {method: {*kind.model_fields} for method, kind in kinds.items()}
    for name in {*shared} - {name for known in fields.values() for name in known}:
        raise ExperimentError(
            f"{origin}: {name}: none of {', '.join(methods)} has such a field; "
            "put fields of one method under its name"
        )
    chain = []
    for method in methods:
        own = data.get(method) or {}
        if not isinstance(own, Mapping) or own.keys() & {*_OF_ALL}:
            raise ExperimentError(
                f"{origin}: {method} must contain that method's sections; {', '.join(_OF_ALL)} apply to all "
                "methods and belong at the top level"
            )
        common = {name: value for name, value in shared.items() if name in fields[method]}
        settings = {**_merge(common, own, kinds[method]), "method": method, "methods": methods}
        chain.append(parse_experiment(settings, folder=folder, origin=f"{origin}, {method}"))
    for one in chain[1:]:
        if one.model != chain[0].model:
            raise ExperimentError(
                f"{origin}: the methods of a chain improve one model, but model.path is "
                f"{chain[0].model.path} for {chain[0].method} and {one.model.path} for {one.method}"
            )
    return chain


def parse_experiment(data: Mapping[str, Any], *, folder: Path, origin: str = "experiment") -> Experiment:
    """Validate plain data as an experiment; paths are relative to `folder`."""
    name = data["method"] if "method" in data else registry.default_method()
    method = registry.method(_one_of(registry.methods(), name, f"{origin}: method"))
    kind, presets = method.experiment, method.all_presets
    preset = presets[_one_of(presets, data.get("preset", "practical"), f"{origin}: preset")]
    if kind.measured_in and isinstance(measured := data.get(kind.measured_in), str) and "model" not in data:
        data = {**data, "model": _model_of(measured, f"{origin}: {kind.measured_in}", folder)}
    folder = folder.absolute()
    try:
        given = _with_paths(kind, _merge(preset.values, {"method": name, **data}, kind), _expanded)
        return kind.model_validate(
            _with_paths(kind, kind.prepare(given, folder), partial(_located, folder, method.embedded))
        )
    except ValidationError as error:
        found = dict.fromkeys(_complaint(detail, kind) for detail in error.errors(include_url=False))
        lines = "\n".join(f"  {one}" for one in found)
        raise ExperimentError(f"{origin} has wrong values:\n{lines}") from None
    except _UnsetVariable as error:
        raise ExperimentError(f"{origin}: {error}") from None


def _model_of(name: str, where: str, folder: Path) -> dict[str, Any]:
    """Return the model section of the experiment whose champion another one measures."""
    path = folder / f"{name}.yaml"
    measured = _read(path)
    method = registry.methods().get(str(measured.get("method")))
    if method is not None and method.experiment.measured_in in measured:
        raise ExperimentError(f"{where}: {name} measures another experiment and has no champion")
    return parse_chain(measured, folder=folder, origin=str(path))[0].model.model_dump()


def _one_of(known: Mapping[str, Any], given: Any, where: str) -> str:
    if not isinstance(given, str) or given not in known:
        raise ExperimentError(f"{where}: {given!r} is not one of {', '.join(map(repr, known))}")
    return given


@dataclass(frozen=True)
class FieldDescription:
    """A field of an experiment file; `paper` and `practical` are its default values in these presets."""

    name: str
    description: str
    paper: str
    practical: str


def describe_fields(method: str | None = None) -> list[FieldDescription]:
    """Return all fields of a method's experiments (or of the default method's), with sections as
    `section.field`.

    Raises ExperimentError for an unknown method.
    """
    known = registry.method(_one_of(registry.methods(), method or registry.default_method(), "method"))
    return _described(known.experiment, known.presets)


def _described(
    section: type[BaseModel], presets: Mapping[str, Preset], prefix: str = ""
) -> list[FieldDescription]:
    described: list[FieldDescription] = []
    for name, field in section.model_fields.items():
        inner = section_in(field.annotation)
        if inner is not field.annotation:
            given = [
                _preset_value(presets[preset], f"{prefix}{name}", field) for preset in ("paper", "practical")
            ]
            described.append(FieldDescription(prefix + name, field.description or "", *given))
        if inner is not None:
            described += _described(inner, presets, f"{prefix}{name}.")
    return described


def _preset_value(preset: Preset, name: str, field: FieldInfo) -> str:
    values: Any = preset.values
    for part in name.split("."):
        values = values.get(part, PydanticUndefined) if isinstance(values, Mapping) else PydanticUndefined
    value = field.get_default(call_default_factory=True) if values is PydanticUndefined else values
    return "required" if value is PydanticUndefined else "none" if value is None else str(value)


class _UnsetVariable(Exception):
    pass


_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


def _merge(base: Mapping[str, Any], over: Mapping[str, Any], kind: type[BaseModel] | None) -> dict[str, Any]:
    """Merge `over` into `base`, section by section; a field marked `Whole` is replaced, one marked `Instead` takes the
    place of another.
    """
    merged = dict(base)
    for key, value in over.items():
        old, field = merged.get(key), kind.model_fields.get(key) if kind else None
        inner = section_in(field.annotation) if field else None
        whole = field is not None and mark_of(field, Whole) is not None
        nested = isinstance(old, Mapping) and isinstance(value, Mapping) and not whole
        merged[key] = _merge(old, value, inner) if nested else value  # type: ignore[arg-type]
    for name, field in kind.model_fields.items() if kind else ():
        if mark := mark_of(field, Instead):
            for given, other in ((name, mark.of), (mark.of, name)):
                if given in over and other not in over:
                    merged.pop(other, None)
    return merged


Place = tuple[str, ...]


def _with_paths(
    kind: type[BaseModel], values: Any, change: Callable[[str, Place, NamesPath], str], place: Place = ()
) -> Any:
    """Apply `change` to each text in a field that names a file or model.

    Values of the wrong type stay unchanged, as validation reports them.
    """
    if not isinstance(values, Mapping):
        return values
    changed = dict(values)
    for name, field in kind.model_fields.items():
        if (given := values.get(name)) is None:
            continue
        here, mark, inner = (*place, name), mark_of(field, NamesPath), section_in(field.annotation)

        def settle(one: Any, here: Place = here, mark: Any = mark, inner: Any = inner) -> Any:
            if mark is not None and isinstance(one, str):
                return change(one, here, mark)
            return one if inner is None else _with_paths(inner, one, change, here)

        if isinstance(given, list):
            changed[name] = [settle(one) for one in given]
        elif get_origin(field.annotation) is dict and isinstance(given, Mapping):
            changed[name] = {key: settle(one) for key, one in given.items()}
        else:
            changed[name] = settle(given)
    return changed


def _expanded(text: str, place: Place, mark: NamesPath) -> str:
    """Return the text with its variables replaced."""
    return _VARIABLE.sub(_variable, text)


def _located(folder: Path, embedded: Mapping[Place, Path], text: str, place: Place, mark: NamesPath) -> str:
    """Return the file or model that a text names: an embedded one, one in the folder, or one on the Hub."""
    if text == "embedded" and place in embedded:
        return str(embedded[place])
    if mark.is_data and is_on_hub(text):
        return text
    if mark.is_code:
        return own_code.located(text, folder)
    if mark.is_model and not text.startswith((".", "~", "/")) and not (folder / text).exists():
        return text
    return os.path.normpath(folder / Path(os.path.expanduser(text)))  # noqa: PTH111 (never raises)


def _variable(match: re.Match[str]) -> str:
    value = os.environ.get(match["name"])
    if not value and match["default"] is not None:
        return match["default"]
    if value is None:
        raise _UnsetVariable(f"the environment variable {match['name']} is used but not set")
    return value


_NAMED = re.compile(r"([a-z_.]+): ")


def _complaint(detail: Any, kind: type[Experiment]) -> str:
    field = ".".join(str(part) for part in detail["loc"] if part != "[key]") or "the file as a whole"
    if detail["type"] == "extra_forbidden":
        allowed = ", ".join(_allowed(detail["loc"][:-1], kind))
        return f"{field}: there is no such field; allowed here: {allowed}"
    if (whole := _of_several_forms(detail["loc"], kind)) is not None:  # there is one detail for each form
        return (
            f"{'.'.join(map(str, whole))}: wrong value {detail['input']!r}; it is {_description(whole, kind)}"
        )
    given = "" if detail["type"] == "missing" else f", not {detail['input']!r}"
    wanted = ""
    if detail["type"] in ("string_type", "string_pattern_mismatch"):  # a pattern says little to people
        wanted = f" ({_description(detail['loc'], kind)})"
    said = detail["msg"].removeprefix("Value error, ").split(" or instance of ")[0]
    if (
        not detail["loc"]
        and (named := _NAMED.match(said))
        and named[1].partition(".")[0] in kind.model_fields
    ):
        return said  # a rule over several fields, which names the one to change
    return f"{field}: {said}{given if len(given) < 120 else ''}{wanted}"


def _of_several_forms(
    location: tuple[int | str, ...], kind: type[Experiment]
) -> tuple[int | str, ...] | None:
    """Return the place of the field whose value may have several forms, of which `location` names one; else None."""
    model: Any = kind
    for at, part in enumerate(location):
        fields = getattr(model, "model_fields", {})
        if part in fields:
            annotation = fields[part].annotation
            model = section_in(annotation)
            forms = [one for one in get_args(annotation) if one is not NoneType]
            is_union = get_origin(annotation) in (Union, UnionType) and len(forms) > 1
            if is_union and model is None and len(location) > at + 1:
                return location[: at + 1]
    return None


def _description(location: tuple[int | str, ...], kind: type[Experiment]) -> str:
    """Return the description of the field at a place, empty if there is none."""
    model: Any = kind
    found = ""
    for part in location:
        fields = getattr(model, "model_fields", {})
        if part in fields:
            found = fields[part].description or ""
            model = section_in(fields[part].annotation)
    return found


def _allowed(location: tuple[int | str, ...], kind: type[Experiment]) -> list[str]:
    model: Any = kind
    for part in location:
        if part in model.model_fields:  # neither an index of a list nor a key of a dictionary
            model = section_in(model.model_fields[part].annotation)
    return sorted(model.model_fields)
