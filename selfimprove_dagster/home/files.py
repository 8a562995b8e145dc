"""Experiment files: one YAML file, validated field by field, filled up from a preset.

    name: mine
    preset: practical
    model: {path: meta-llama/Llama-3.2-1B}
    seeds: {file: questions.jsonl}
    evaluation: {file: heldout.jsonl}

Whatever the file leaves out comes from the preset of its method: `paper` has the numbers of the method's
paper, `practical` those that work for a small model on a small machine. What departs from the paper is listed
in each preset's `deviations` and printed by `selfimprove run`.

An experiment can chain methods, which then take turns on one line of champions:

    methods: [constitutional, rlaif]
    model: {path: mine}
    constitutional: {revisions: {rounds: 2}}
    rlaif: {judge: {principles: 4}}

Paths are relative to the file's own folder. In paths, `${NAME}` and `${NAME:-default}` are replaced from the
environment; the default stands in for a variable that is unset or empty. The word `embedded` stands for the
model, questions and demonstrations that ship with the project.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from selfimprove_dagster import embedded
from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.experiment.base import Experiment
from selfimprove_dagster.experiment.preset import Preset
from selfimprove_dagster.experiment.sections import Section
from selfimprove_dagster.families.dialogues.constitution import HOUSEHOLD
from selfimprove_dagster.known_experiments import EXPERIMENTS
from selfimprove_dagster.presets import PRESETS

_TASK_POOLS: dict[tuple[str, ...], Path] = {
    ("model", "path"): embedded.TASK_MODEL,
    ("evaluation", "file"): embedded.TASK_EVALUATION,
}


_DIALOGUES: dict[tuple[str, ...], Path] = {
    ("model", "path"): embedded.DIALOGUE_MODEL,
    ("judge", "model", "path"): embedded.DIALOGUE_MODEL,
    ("evaluation", "file"): embedded.DIALOGUE_EVALUATION,
    ("constitution", "file"): HOUSEHOLD,
}


_EMBEDDED: dict[str, dict[tuple[str, ...], Path]] = {
    "lmsi": {
        ("model", "path"): embedded.BASE_MODEL,
        ("seeds", "file"): embedded.SEEDS,
        ("evaluation", "file"): embedded.EVALUATION,
        ("demonstrations", "file"): embedded.DEMONSTRATIONS,
    },
    "self_instruct": {**_TASK_POOLS, ("seeds", "file"): embedded.TASK_SEEDS},
    "unnatural_instructions": {**_TASK_POOLS, ("seeds", "file"): embedded.UNNATURAL_SEEDS},
    "toolformer": {
        ("model", "path"): embedded.TOOL_MODEL,
        ("seeds", "file"): embedded.TOOL_TEXTS,
        ("evaluation", "file"): embedded.TOOL_EVALUATION,
        ("evaluation", "plain_file"): embedded.TOOL_PLAIN,
    },
    "constitutional": {**_DIALOGUES, ("seeds", "file"): embedded.DIALOGUE_PROMPTS},
    "rlaif": {**_DIALOGUES, ("seeds", "file"): embedded.DIALOGUE_PROMPTS},
    "rlhf": {**_DIALOGUES, ("seeds", "file"): embedded.DIALOGUE_COMPARISONS},
    "refinement": {**_DIALOGUES, ("seeds", "file"): embedded.DIALOGUE_PROMPTS},
    "self_knowledge": _DIALOGUES,
    "pit": {**_DIALOGUES, ("seeds", "file"): embedded.DIALOGUE_COMPARISONS},
}
"""The files for which the word `embedded` stands."""


_EMBEDDED_TASKS = {"questions": embedded.EVALUATION, "dialogues": embedded.DIALOGUE_EVALUATION}
"""The same of the members of `tasks`, by their kind."""


_OF_ALL = ("name", "method", "methods", "seed", "model", "budget", "loop")


_PATHS = (
    *(("model", "path"), ("seeds", "file"), ("evaluation", "file"), ("demonstrations", "file")),
    *(("evaluation", "plain_file"), ("tools", "corpus"), ("tools", "answered_by")),
    *(("constitution", "file"), ("judge", "model", "path")),
)
"""The fields that name files or models."""


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
        raise ExperimentError(f"there is no experiment file {path}; write one, or name another") from None
    except UnicodeDecodeError as error:
        raise ExperimentError(f"{path} is not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    except OSError as error:
        raise ExperimentError(f"{path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ExperimentError(f"{path} is not YAML: {error}") from None
    if not isinstance(data, dict):
        raise ExperimentError(f"{path} must hold fields and values, such as `name: {path.stem}`")
    data.setdefault("name", path.stem)
    if data["name"] != path.stem:
        raise ExperimentError(f"{path}: name is {data['name']!r} but must equal the file name, {path.stem!r}")
    return data


def parse_chain(data: Mapping[str, Any], *, folder: Path, origin: str = "experiment") -> list[Experiment]:
    """Validate plain data as one method's experiment, or as a chain of several methods'.

    In a chain, the sections of a method stand under its name; what stands beside them holds for every method
    that has such a field.
    """
    if not data.get("methods"):
        return [parse_experiment(data, folder=folder, origin=origin)]
    methods = data["methods"]
    if not isinstance(methods, list) or not methods:
        raise ExperimentError(f"{origin}: methods must be a list, such as [constitutional, rlaif]")
    for method in methods:
        _one_of(EXPERIMENTS, method, f"{origin}: methods")
    if len({*methods}) < len(methods):
        raise ExperimentError(f"{origin}: methods names one twice; each can run once in an iteration")
    if "method" in data:
        raise ExperimentError(f"{origin} has both method and methods; leave one out")
    shared = {name: value for name, value in data.items() if name not in methods}
    fields = {method: {*EXPERIMENTS[method].model_fields} for method in methods}
    for name in {*shared} - {name for known in fields.values() for name in known}:
        raise ExperimentError(
            f"{origin}: {name}: none of {', '.join(methods)} has such a field; what belongs to one method "
            "stands under its name"
        )
    chain = []
    for method in methods:
        own = data.get(method) or {}
        if not isinstance(own, Mapping) or own.keys() & {*_OF_ALL}:
            raise ExperimentError(
                f"{origin}: {method} must hold that method's sections; {', '.join(_OF_ALL)} are the same for "
                "all methods and stand at the top"
            )
        common = {name: value for name, value in shared.items() if name in fields[method]}
        settings = {**_merge(common, own), "method": method, "methods": methods}
        chain.append(parse_experiment(settings, folder=folder, origin=f"{origin}, {method}"))
    for one in chain[1:]:
        if one.model != chain[0].model:
            raise ExperimentError(
                f"{origin}: the methods of a chain improve one model, but model.path is "
                f"{chain[0].model.path} for {chain[0].method} and {one.model.path} for {one.method}"
            )
    return chain


def parse_experiment(data: Mapping[str, Any], *, folder: Path, origin: str = "experiment") -> Experiment:
    """Validate plain data as an experiment; relative paths start at `folder`."""
    method = _one_of(EXPERIMENTS, data.get("method", "lmsi"), f"{origin}: method")
    presets = PRESETS[method]
    preset = _one_of(presets, data.get("preset", "practical"), f"{origin}: preset")
    kind = EXPERIMENTS[method]
    if "of" in kind.model_fields and isinstance(data.get("of"), str) and "model" not in data:
        data = {**data, "model": _model_of(data["of"], folder, origin)}
    try:
        merged = _resolve(_merge(presets[preset].values, data), folder.absolute(), _EMBEDDED[method])
        return kind.model_validate(merged)
    except ValidationError as error:
        lines = "\n".join(f"  {_complaint(detail, kind)}" for detail in error.errors(include_url=False))
        raise ExperimentError(f"{origin} has wrong values:\n{lines}") from None
    except _UnsetVariable as error:
        raise ExperimentError(f"{origin}: {error}") from None


def _model_of(name: str, folder: Path, origin: str) -> dict[str, Any]:
    """The model section of the experiment whose champion another one measures."""
    path = folder / f"{name}.yaml"
    measured = _read(path)
    if "of" in measured:
        raise ExperimentError(f"{origin}: of: {name} measures another experiment and has no champion")
    return parse_chain(measured, folder=folder, origin=str(path))[0].model.model_dump()


def _one_of(known: Mapping[str, Any], given: Any, where: str) -> str:
    if not isinstance(given, str) or given not in known:
        raise ExperimentError(f"{where}: {given!r} is not one of {', '.join(map(repr, known))}")
    return given


@dataclass(frozen=True)
class FieldDescription:
    """One field of an experiment file; `paper` and `practical` are what a file gets that leaves it out."""

    name: str
    description: str
    paper: str
    practical: str


def describe_fields(method: str = "lmsi") -> list[FieldDescription]:
    """All fields of a method's experiments, sections unfolded as `section.field`. Raises ExperimentError."""
    return _described(EXPERIMENTS[_one_of(EXPERIMENTS, method, "method")], PRESETS[method])


def _described(
    section: type[BaseModel], presets: Mapping[str, Preset], prefix: str = ""
) -> list[FieldDescription]:
    described: list[FieldDescription] = []
    for name, field in section.model_fields.items():
        inner = _section_in(field.annotation)
        if inner is not field.annotation:
            given = [
                _preset_value(presets[preset], f"{prefix}{name}", field) for preset in ("paper", "practical")
            ]
            described.append(FieldDescription(prefix + name, field.description or "", *given))
        if inner is not None:
            described += _described(inner, presets, f"{prefix}{name}.")
    return described


def _section_in(annotation: Any) -> type[Section] | None:
    """The section that a field holds, or may hold (`AdaptiveSection | None`)."""
    kinds = (annotation, *get_args(annotation))
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


def _preset_value(preset: Preset, name: str, field: FieldInfo) -> str:
    values: Any = preset.values
    for part in name.split("."):
        values = values.get(part, PydanticUndefined) if isinstance(values, Mapping) else PydanticUndefined
    value = field.get_default(call_default_factory=True) if values is PydanticUndefined else values
    return "required" if value is PydanticUndefined else "none" if value is None else str(value)


class _UnsetVariable(Exception):
    pass


_VARIABLE = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid on `base`, section by section; `formats` is replaced as a whole."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        nested = isinstance(old, Mapping) and isinstance(value, Mapping) and key != "formats"
        merged[key] = _merge(old, value) if nested else value  # type: ignore[arg-type]
    return merged


def _resolve(data: dict[str, Any], folder: Path, files: Mapping[tuple[str, ...], Path]) -> dict[str, Any]:
    """Expand variables, the word `embedded` and relative paths in the fields that name files."""
    data = deepcopy(data)
    shown, tools = data.get("demonstrations"), data.get("tools")
    if isinstance(shown, Mapping):
        data["demonstrations"] = {"file": "embedded", **shown}
    if isinstance(tools, Mapping) and isinstance(tools.get("names"), list):
        data["tools"] = {**tools, "names": [_tool(name, folder) for name in tools["names"]]}
    given = data.get("tasks")
    tasks = [task for task in given if isinstance(task, dict)] if isinstance(given, list) else []
    for task in (one for one in tasks if isinstance(one.get("file"), str)):
        task["file"] = _settled(task["file"], "file", folder, _EMBEDDED_TASKS.get(str(task.get("kind"))))
    if tasks and all(task.get("kind") == "questions" for task in tasks):
        files = {**files, ("model", "path"): embedded.BASE_MODEL}
    for *sections, key in _PATHS:
        values: Any = data
        for section in sections:
            values = values.get(section) if isinstance(values, Mapping) else None
        if not isinstance(values, dict) or not isinstance(values.get(key), str):
            continue  # validation says what is missing
        values[key] = _settled(values[key], key, folder, files.get((*sections, key)))
    return data


def _settled(given: str, key: str, folder: Path, embedded_file: Path | None) -> str:
    """The value of a field that names a file or model; `embedded_file` is what the word `embedded` means."""
    text = _VARIABLE.sub(_variable, given)
    if text == "embedded" and embedded_file is not None:
        return str(embedded_file)
    is_file = key.endswith("file") or key == "corpus" or text.startswith((".", "~", "/"))
    if is_file or (folder / text).exists():
        return os.path.normpath(folder / Path(os.path.expanduser(text)))  # noqa: PTH111 (never raises)
    return text


def _tool(name: Any, folder: Path) -> Any:
    """A tool's name; of one in a file of the user's own (`my_tools.py:Weather`), with the whole path."""
    file, separator, attribute = str(name).rpartition(":")
    return f"{os.path.normpath(folder / file)}:{attribute}" if separator and file.endswith(".py") else name


def _variable(match: re.Match[str]) -> str:
    value = os.environ.get(match["name"])
    if not value and match["default"] is not None:
        return match["default"]
    if value is None:
        raise _UnsetVariable(f"the environment variable {match['name']} is used but not set")
    return value


def _complaint(detail: Any, kind: type[Experiment]) -> str:
    field = ".".join(str(part) for part in detail["loc"] if part != "[key]") or "the file as a whole"
    if detail["type"] == "extra_forbidden":
        allowed = ", ".join(_allowed(detail["loc"][:-1], kind))
        return f"{field}: there is no such field; allowed here: {allowed}"
    given = "" if detail["type"] == "missing" else f", not {detail['input']!r}"
    return f"{field}: {detail['msg'].removeprefix('Value error, ')}{given if len(given) < 120 else ''}"


def _allowed(location: tuple[int | str, ...], kind: type[Experiment]) -> list[str]:
    model: Any = kind
    for part in (one for one in location if isinstance(one, str)):
        model = _section_in(model.model_fields[part].annotation)
    return sorted(model.model_fields)
