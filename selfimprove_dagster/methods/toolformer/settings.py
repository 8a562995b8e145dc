"""The settings of an experiment with Toolformer, and its presets."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from selfimprove_dagster import embedded, own_code
from selfimprove_dagster.experiment.preset import GATED, Preset
from selfimprove_dagster.experiment.sections import (
    DataPath,
    FilePath,
    GeneratorSection,
    ModelPath,
    ModelSection,
    Section,
)
from selfimprove_dagster.filtering.settings import FilteringExperiment
from selfimprove_dagster.filtering.steps import PERPLEXITY, RATING, VOTE
from selfimprove_dagster.methods.toolformer.loss import PAPER_SAMPLING
from selfimprove_dagster.methods.toolformer.rules import PAPER_THRESHOLDS, TABLE_THRESHOLDS
from selfimprove_dagster.seeds.settings import DATA
from selfimprove_dagster.tools.wiki_search import ENCYCLOPAEDIA


class TextFile(Section):
    """A file of plain texts: JSON Lines, a JSON array, CSV, Parquet, or plain text with one a line."""

    file: DataPath = Field(description=DATA)
    text_field: str = Field("text", description="field that holds the text")
    date_field: str = Field(
        "date", description="field with the day on which the text was written (ISO 8601), if any"
    )
    source_field: str = Field("source", description="field with the source of the text, if any")
    rows: str | None = Field(
        None, pattern=r"^\d*:\d*$", description="only these rows, as `from:to`, counted from 0, `to` left out"
    )
    licence: str = Field("unknown", description="licence of the text, kept with every record")
    longest: int = Field(10_000, ge=1, description="longest text in characters; longer ones are rejected")


class ToolsSection(Section):
    """The tools that the model learns to call."""

    names: list[str] = Field(
        min_length=1,
        description="Calculator, Calendar, WikiSearch, QA, MT, entry points, or `my_tools.py:Weather`",
    )
    corpus: FilePath | None = Field(
        None, description="JSON Lines or Parquet of title and text, for WikiSearch; none for ours"
    )
    answered_by: ModelPath | ModelSection | None = Field(
        None,
        description="model behind QA and MT: a folder or hub name, or a section like `model` for another engine; none "
        "for the base model",
    )
    time_limit: float = Field(
        10.0, gt=0, description="seconds a call may take of a tool that is not built in"
    )

    @property
    def corpus_file(self) -> Path:
        """What WikiSearch reads."""
        return Path(self.corpus) if self.corpus else ENCYCLOPAEDIA


class CallSamplingSection(Section):
    """Where calls of one tool are sampled, and how many."""

    positions: int = Field(5, ge=1, description="maximum number of positions per text (k)")
    calls: int = Field(5, ge=1, description="calls sampled at each (m)")
    threshold: float = Field(
        0.05, ge=0, lt=1, description="minimum probability that a call opens there (τ_s)"
    )


class AnnotationSection(GeneratorSection):
    """How texts are annotated with calls."""

    learns_from_itself = (
        "`model` learns the calls that help it predict the text (Schick et al., 2302.04761, section 2), so it has to "
        "write them itself"
    )

    texts: int = Field(ge=1, description="texts in one iteration")
    tools: dict[str, CallSamplingSection] = Field(
        default_factory=dict, description="by tool: positions, calls, threshold"
    )
    other_tools: CallSamplingSection = CallSamplingSection()
    temperature: float = Field(1.0, gt=0, le=5, description="sampling temperature of calls")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus; 1 switches it off")
    max_tokens: int = Field(ge=1, description="longest call in tokens")
    shard: int = Field(64, ge=1, description="texts per shard; a killed run loses at most one shard")

    def of(self, tool: str) -> CallSamplingSection:
        """What holds for a tool."""
        return self.tools.get(tool, self.other_tools)


class CallFilterSection(Section):
    """Which calls are trained on."""

    loss_reduction: dict[str, float] = Field(
        default_factory=dict, description="minimum L⁻ − L⁺ in nats, by tool (τ_f)"
    )
    other_tools: float = Field(1.0, ge=0, description="τ_f of tools that are not named")
    one_at_a_position: bool = Field(True, description="keep only the most helpful call per position")
    most_texts: int | None = Field(
        25_000, ge=1, description="maximum number of texts per tool, sampled at random; null for all"
    )
    chosen_by: Literal["loss", "lot"] = Field(
        "loss", description="`lot` keeps as many calls, at random: the control of an ablation"
    )

    @property
    def lowest(self) -> float:
        """The lowest τ_f of interest: the experiment's own, and those of the paper's table."""
        return min(*self.loss_reduction.values(), self.other_tools, *TABLE_THRESHOLDS)


class ToolEvaluationSection(Section):
    """Held-out beginnings of texts with the required continuations. Used to measure, never to train."""

    file: DataPath = Field(description="JSON Lines with prompt, answer and optionally date; or `embedded`")
    rows: str | None = Field(
        None, pattern=r"^\d*:\d*$", description="only these rows, as `from:to`, counted from 0, `to` left out"
    )
    difficulty_field: str | None = Field(None, description="field by which accuracy is also broken down")
    licence: str = Field("unknown", description="licence of the text")
    plain_file: DataPath | None = Field(
        None, description="held-out plain texts whose perplexity must not rise; none for no such test"
    )
    plain_tolerance: float = Field(
        0.02, ge=0, description="by how much their loss may rise, in nats a token, before a check fails"
    )
    likeliest: int = Field(10, ge=1, description="a call opens where its token is among the k most likely")
    most_calls: int = Field(1, ge=1, description="maximum number of calls per text")
    max_tokens: int = Field(ge=1, description="longest continuation in tokens, calls not counted")
    max_call_tokens: int = Field(ge=1, description="longest call in tokens")
    stop: list[str] = Field(default_factory=lambda: ["\n"], description="strings that end a continuation")
    chat_tools: bool = Field(
        False,
        description="also ask every beginning in a conversation, in which a chat model calls tools in the format of "
        "its chat template (mode `chat_tools`)",
    )


class ToolformerExperiment(FilteringExperiment):
    """A model that teaches itself to call tools (Schick et al., 2302.04761)."""

    scores = True
    lacking: ClassVar[Mapping[str, str]] = {
        **dict.fromkeys(
            PERPLEXITY, "calls are kept by how much they lower the loss of their text: see `filter`"
        ),
        **dict.fromkeys(RATING | VOTE, "its examples are texts with calls, and no answers to a question"),
    }
    method: Literal["toolformer"] = Field(description="the self-improvement method")
    seeds: TextFile
    evaluation: ToolEvaluationSection
    tools: ToolsSection
    annotation: AnnotationSection
    filter: CallFilterSection

    @model_validator(mode="after")
    def _chat_for_chat_tools(self) -> ToolformerExperiment:
        if self.evaluation.chat_tools and self.model.prompting == "text":
            raise ValueError(
                "evaluation.chat_tools needs a chat model: omit it, or set model.prompting to chat"
            )
        return self

    @classmethod
    def prepare(cls, values: dict[str, Any], folder: Path) -> dict[str, Any]:
        """Give the whole path of tools in files of one's own, such as `my_tools.py:Weather`."""
        values = super().prepare(values, folder)
        tools = values.get("tools")
        if not isinstance(tools, Mapping) or not isinstance(tools.get("names"), list):
            return values
        return {
            **values,
            "tools": {
                **tools,
                "names": [
                    own_code.located(name, folder) if isinstance(name, str) else name
                    for name in tools["names"]
                ],
            },
        }

    @property
    def answering_model(self) -> ModelSection | None:
        """The model that QA and MT ask; None where neither is among the tools."""
        if not {"QA", "MT"} & {*self.tools.names}:
            return None
        given = self.tools.answered_by
        if not isinstance(given, str):
            return given or self.model
        # A LoRA adapter belongs to the model that is trained.
        vllm = (
            self.model.vllm if given == self.model.path else self.model.vllm.model_copy(update={"lora": None})
        )
        return self.model.model_copy(update={"path": given, "vllm": vllm})

    @property
    def decided_in(self) -> str:
        """The mode of the exam by which a checkpoint is compared with the champion."""
        return "with_tools"


_PAPER_CALLS = {
    tool: {"positions": of.positions, "calls": of.calls, "threshold": of.threshold}
    for tool, of in PAPER_SAMPLING.items()
}


PRESETS = {
    "paper": Preset(
        values={
            "tools": {"names": list(PAPER_SAMPLING)},
            "annotation": {"texts": 100_000, "tools": _PAPER_CALLS, "max_tokens": 96},
            "filter": {"loss_reduction": dict(PAPER_THRESHOLDS), "most_texts": 25_000},
            "evaluation": {"max_tokens": 32, "max_call_tokens": 96},
            "training": {
                "start_from": "base",
                "steps": 2_000,
                "learning_rate": 1e-5,
                "batch_size": 128,
                "warmup_fraction": 0.1,
                "schedule": "constant",
            },
            "budget": {"iterations": 1},
        },
        deviations=(
            "no heuristic picks texts before they are annotated: what is in the seed file is tried",
            "QA and MT ask the model of tools.answered_by, not Atlas and NLLB",
            "the most helpful call is kept where several at one position help",
            "the learning rate is constant after the warm-up: the paper names no schedule",
            GATED,
        ),
    ),
    "practical": Preset(
        values={
            "tools": {"names": list(PAPER_SAMPLING)},
            "annotation": {"texts": 800, "tools": _PAPER_CALLS, "max_tokens": 40},
            "filter": {"loss_reduction": dict(PAPER_THRESHOLDS), "most_texts": 25_000},
            "evaluation": {"max_tokens": 16, "max_call_tokens": 40},
            "training": {
                "start_from": "base",
                "steps": 200,
                "learning_rate": 5e-4,
                "batch_size": 32,
                "warmup_fraction": 0.1,
                "schedule": "cosine",
            },
            "budget": {"iterations": 1},
        },
        deviations=(
            "800 texts an iteration, of those that the seed file holds",
            "QA and MT ask the model of tools.answered_by, not Atlas and NLLB",
            "the most helpful call is kept where several at one position help",
        ),
        trained=("200 steps of 32 at 5e-4 with a cosine schedule, not up to 2,000 of 128 at 1e-5",),
        # Calls and the answers of an exam are short, whatever the model.
        sized={"annotation": {"max_tokens": 64}, "evaluation": {"max_tokens": 64, "max_call_tokens": 64}},
    ),
}


EMBEDDED: dict[tuple[str, ...], Path] = {
    ("model", "path"): embedded.TOOL_MODEL,
    ("seeds", "file"): embedded.TOOL_TEXTS,
    ("evaluation", "file"): embedded.TOOL_EVALUATION,
    ("evaluation", "plain_file"): embedded.TOOL_PLAIN,
}
"""The shipped files that the word `embedded` means."""
