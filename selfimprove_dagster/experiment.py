"""What an experiment is: one YAML file, validated field by field, filled up from a preset.

    name: mine
    preset: practical
    model: {path: meta-llama/Llama-3.2-1B}
    seeds: {file: questions.jsonl}
    evaluation: {file: heldout.jsonl}

Whatever the file leaves out comes from the preset of its method: `paper` has the numbers of the method's
paper, `practical` those that work for a small model on a small machine. What departs from the paper is listed
in each preset's `deviations` and printed by `selfimprove run`.

Paths are relative to the file's own folder. In paths, `${NAME}` and `${NAME:-default}` are replaced from the
environment; the default stands in for a variable that is unset or empty. The word `embedded` stands for the
model, questions and demonstrations that ship with the project.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from selfimprove_dagster import embedded
from selfimprove_dagster.errors import ExperimentError
from selfimprove_dagster.presets import PRESETS, Preset
from selfimprove_dagster.sections import (
    BudgetSection,
    DemonstrationSection,
    EvaluationSection,
    FilterSection,
    ModelSection,
    PathTrainingSection,
    PromotionSection,
    QuestionFile,
    SamplingSection,
    Section,
    TrainingSection,
    VotingSection,
)
from selfimprove_dagster.task_sections import (
    ClassificationSection,
    ElicitationSection,
    InstanceSection,
    OutputSection,
    ParaphraseSection,
    TaskEvaluationSection,
    TaskFile,
    TaskFilterSection,
    TaskGenerationSection,
)
from selfimprove_dagster.tool_sections import (
    AnnotationSection,
    CallFilterSection,
    TextFile,
    ToolEvaluationSection,
    ToolsSection,
)

NAME_PATTERN = r"^[a-z][a-z0-9_]{0,39}$"
PARTITION_KEY = re.compile(r"^(?P<experiment>[a-z][a-z0-9_]{0,39})-(?P<iteration>[0-9]{3})$")


class Experiment(Section):
    """What the experiments of all methods have; every field is settled."""

    scores: ClassVar[bool] = False
    """Whether the generator is asked for log-probabilities of given texts, which not every server gives."""

    name: str = Field(
        pattern=NAME_PATTERN, description="small letters, digits, underscores; equals the file name"
    )
    description: str = Field("", description="one line for people")
    preset: Literal["paper", "practical"] = Field("practical", description="where left-out fields come from")
    method: str = Field(description="the self-improvement method")
    seed: int = Field(0, ge=0, lt=2**31, description="from which every random choice follows")
    model: ModelSection
    seeds: QuestionFile | TaskFile | TextFile
    evaluation: EvaluationSection | TaskEvaluationSection | ToolEvaluationSection
    training: TrainingSection
    promotion: PromotionSection = PromotionSection()
    budget: BudgetSection = BudgetSection()

    @property
    def drawn_by(self) -> Literal["base", "champion"]:
        """The model that an iteration generates with."""
        return "champion"

    @property
    def decided_in(self) -> str:
        """The mode of the exam by which a checkpoint is compared with the champion."""
        return "greedy"

    def partition_key(self, iteration: int) -> str:
        """Dagster's key for one iteration, `<name>-<NNN>`."""
        return f"{self.name}-{iteration:03d}"


class LmsiExperiment(Experiment):
    """Self-consistency as a teacher (Huang et al., 2210.11610)."""

    method: Literal["lmsi"] = Field("lmsi", description="the self-improvement method")
    seeds: QuestionFile
    evaluation: EvaluationSection
    demonstrations: DemonstrationSection
    sampling: SamplingSection
    voting: VotingSection = VotingSection()
    filter: FilterSection
    training: PathTrainingSection

    @model_validator(mode="after")
    def _demonstrations_where_needed(self) -> LmsiExperiment:
        few_shot = self.sampling.prompt_format == "few_shot_cot" or any(
            share > 0 for name, share in self.training.formats.items() if name.startswith("few_shot")
        )
        if few_shot and self.demonstrations.count == 0:
            raise ValueError("few-shot formats are used, so demonstrations.count must be at least 1")
        return self


class SelfInstructExperiment(Experiment):
    """A pool of tasks that the model itself extends (Wang et al., 2212.10560)."""

    scores = True
    method: Literal["self_instruct"] = Field(description="the self-improvement method")
    seeds: TaskFile
    evaluation: TaskEvaluationSection
    generation: TaskGenerationSection
    classification: ClassificationSection
    instances: InstanceSection
    filter: TaskFilterSection

    @property
    def drawn_by(self) -> Literal["base", "champion"]:
        """The model that an iteration generates with."""
        return self.generation.drawn_by


class UnnaturalInstructionsExperiment(Experiment):
    """Three demonstrations elicit a fourth (Honovich et al., 2212.09689)."""

    scores = True
    method: Literal["unnatural_instructions"] = Field(description="the self-improvement method")
    seeds: TaskFile
    evaluation: TaskEvaluationSection
    generation: ElicitationSection
    outputs: OutputSection
    paraphrases: ParaphraseSection

    @property
    def drawn_by(self) -> Literal["base", "champion"]:
        """The model that an iteration generates with."""
        return self.generation.drawn_by


class ToolformerExperiment(Experiment):
    """A model that teaches itself to call tools (Schick et al., 2302.04761)."""

    scores = True
    method: Literal["toolformer"] = Field(description="the self-improvement method")
    seeds: TextFile
    evaluation: ToolEvaluationSection
    tools: ToolsSection
    annotation: AnnotationSection
    filter: CallFilterSection

    @property
    def drawn_by(self) -> Literal["base", "champion"]:
        """The model that an iteration generates with."""
        return self.annotation.drawn_by

    @property
    def answering_model(self) -> str | None:
        """The model that QA and MT ask; None where neither is among the tools."""
        return (self.tools.answered_by or self.model.path) if {"QA", "MT"} & {*self.tools.names} else None

    @property
    def decided_in(self) -> str:
        """The mode of the exam by which a checkpoint is compared with the champion."""
        return "with_tools"


EXPERIMENTS: dict[str, type[Experiment]] = {
    "lmsi": LmsiExperiment,
    "self_instruct": SelfInstructExperiment,
    "unnatural_instructions": UnnaturalInstructionsExperiment,
    "toolformer": ToolformerExperiment,
}
"""What an experiment file of each method holds."""

_TASK_POOLS = {("model", "path"): embedded.TASK_MODEL, ("evaluation", "file"): embedded.TASK_EVALUATION}
_EMBEDDED: dict[str, dict[tuple[str, str], Path]] = {
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
}
"""The files for which the word `embedded` stands."""
_PATHS = (
    *(("model", "path"), ("seeds", "file"), ("evaluation", "file"), ("demonstrations", "file")),
    *(("evaluation", "plain_file"), ("tools", "corpus"), ("tools", "answered_by")),
)
"""The fields that name files or models."""


def load_experiment(path: str | Path) -> Experiment:
    """Read and validate an experiment file. Raises ExperimentError naming file, field and what is allowed."""
    path = Path(path)
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
    return parse_experiment(data, folder=path.parent, origin=str(path))


def parse_experiment(data: Mapping[str, Any], *, folder: Path, origin: str = "experiment") -> Experiment:
    """Validate plain data as an experiment; relative paths start at `folder`."""
    method = _one_of(EXPERIMENTS, data.get("method", "lmsi"), f"{origin}: method")
    presets = PRESETS[method]
    preset = _one_of(presets, data.get("preset", "practical"), f"{origin}: preset")
    kind = EXPERIMENTS[method]
    try:
        merged = _resolve(_merge(presets[preset].values, data), folder.absolute(), _EMBEDDED[method])
        return kind.model_validate(merged)
    except ValidationError as error:
        lines = "\n".join(f"  {_complaint(detail, kind)}" for detail in error.errors(include_url=False))
        raise ExperimentError(f"{origin} has wrong values:\n{lines}") from None
    except _UnsetVariable as error:
        raise ExperimentError(f"{origin}: {error}") from None


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


def experiment_of_key(partition_key: str) -> tuple[str, int]:
    """Experiment name and iteration of a partition key. Raises ExperimentError on any other text."""
    match = PARTITION_KEY.fullmatch(partition_key)
    if not match:
        raise ExperimentError(
            f"partition {partition_key!r} is not of the form <experiment>-<NNN>, as demo-000"
        )
    return match["experiment"], int(match["iteration"])


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


def _resolve(data: dict[str, Any], folder: Path, files: Mapping[tuple[str, str], Path]) -> dict[str, Any]:
    """Expand variables, the word `embedded` and relative paths in the fields that name files."""
    shown, tools = data.get("demonstrations"), data.get("tools")
    if isinstance(shown, Mapping):
        data["demonstrations"] = {"file": "embedded", **shown}
    if isinstance(tools, Mapping) and isinstance(tools.get("names"), list):
        data["tools"] = {**tools, "names": [_tool(name, folder) for name in tools["names"]]}
    for section, key in _PATHS:
        values = data.get(section)
        if not isinstance(values, Mapping) or not isinstance(values.get(key), str):
            continue  # validation says what is missing
        text = _VARIABLE.sub(_variable, values[key])
        if text == "embedded" and (section, key) in files:
            text = str(files[section, key])
        elif (
            key.endswith("file")
            or key == "corpus"
            or text.startswith((".", "~", "/"))
            or (folder / text).exists()
        ):
            text = os.path.normpath(folder / Path(os.path.expanduser(text)))  # noqa: PTH111 (never raises)
        data[section] = {**values, key: text}
    return data


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
    for part in location:
        model = _section_in(model.model_fields[part].annotation)
    return sorted(model.model_fields)
