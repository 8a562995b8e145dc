"""The steps that an experiment lists under `filters`: each has a name, settings, and a filter.

A step judges candidates that may become training examples: rows with `candidate_id`, `question_id`, `question` (what
was asked) and `text` (the answer). What a model has to find out beforehand comes as further columns, which the step
lists in `reads`. A method whose group has no stage for them refuses the step.

Your own step is a subclass of `Step` in a file (`my_filters.py:Short`) or at an entry point of the group
`selfimprove_dagster.filters`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, ClassVar, Literal

import polars as pl
from pydantic import Field, model_validator

from selfimprove_dagster.experiment.sections import ModelPath, Section
from selfimprove_dagster.filters import pools
from selfimprove_dagster.filters.rules import (
    Filter,
    agrees_clearly,
    perplexity_at_most,
    rating_at_least,
    words_between,
)
from selfimprove_dagster.filters.tokenisers import TOKENISERS, TokeniserName

COLUMNS = ("candidate_id", "question_id", "question", "text")
"""What every step may read of a candidate."""

REASONS = frozenset({"unscored", "unrated"})
"""The columns that say why a candidate has no perplexity, or no rating."""

PERPLEXITY = frozenset({"perplexity", "unscored"})
"""How probable a model finds the answer, or why that is unknown."""

RATING = frozenset({"rating", "unrated"})
"""The rating of the answer by a model, from 1 to 10, or why there is none."""

VOTE = frozenset({"answer", "voted_answer", "vote_share", "tie"})
"""The short answer that the text states, and the vote on its question."""


class Step(Section):
    """A filter by name with its settings, which are the fields of the class.

    `open` returns a filter: a function from a frame of candidates to their decisions (see `filters.rules.decision`). A
    filter may remember candidates, such as those that later ones must not resemble: it gets all candidates that
    reach it, part by part and in order, those of one question in one part.
    """

    name: ClassVar[str] = ""
    """The name in experiment files, and of the rule in decisions."""
    reads: ClassVar[frozenset[str]] = frozenset()
    """The columns that it needs besides `COLUMNS`."""
    modules: ClassVar[tuple[str, ...]] = ()
    """The optional modules that it imports."""
    extra: ClassVar[str] = ""
    """The extra of this package that installs them."""
    version: ClassVar[str] = "1"
    """Part of the recorded settings; change it with anything else that changes decisions."""

    def open(self) -> Filter:
        """Return the filter, which remembers nothing yet."""
        raise NotImplementedError(f"{type(self).__name__} needs a method open(self) that returns a filter")

    @property
    def missing(self) -> list[str]:
        """Return the modules that are not installed."""
        return [name for name in self.modules if find_spec(name) is None]

    @property
    def recorded(self) -> dict[str, Any]:
        """Return what determines its decisions, besides the candidates."""
        return {**self.model_dump(mode="json"), **({} if self.version == "1" else {"version": self.version})}


_COMPARE: Any = Field("both", description="what is compared: the `question`, the `answer`, or `both`")


def _tokeniser(what: str = "compares") -> Any:
    return Field(
        "words",
        description=f"what it {what}: `words` for every language, with one token per character of scripts without "
        "spaces; `characters`; or `rouge`, runs of ASCII letters and digits",
    )


class Words(Step):
    """Keep answers that are neither too short nor too long."""

    name = "words"
    at_least: int = Field(1, ge=0, description="minimum number of words of the answer")
    at_most: int | None = Field(None, ge=1, description="maximum number of words; null for no limit")
    tokeniser: TokeniserName = _tokeniser("counts")

    @model_validator(mode="after")
    def _some_length_is_kept(self) -> Words:
        if self.at_most is not None and self.at_most < self.at_least:
            raise ValueError(f"at_most {self.at_most} is less than at_least {self.at_least}: nothing is kept")
        return self

    def open(self) -> Filter:
        return words_between(self.at_least, self.at_most, TOKENISERS[self.tokeniser])


class Duplicates(Step):
    """Keep the first of examples with equal words, whatever their case, white space and punctuation."""

    name = "duplicates"
    compare: pools.Compared = _COMPARE

    def open(self) -> Filter:
        return pools.first_of_equal(self.compare)


class Novelty(Step):
    """Diversity: keep examples that resemble none that was kept, by ROUGE-L (Wang et al., 2212.10560, section 2.2)."""

    name = "novelty"
    at_most: float = Field(0.7, gt=0, le=1, description="highest ROUGE-L F1 to an example that was kept")
    compare: pools.Compared = _COMPARE
    tokeniser: TokeniserName = _tokeniser()

    def open(self) -> Filter:
        return pools.novel_by_rouge(self.at_most, self.compare, TOKENISERS[self.tokeniser])


class Perplexity(Step):
    """Keep answers that the model finds probable enough."""

    name = "perplexity"
    reads = PERPLEXITY
    at_most: float = Field(gt=1, description="highest perplexity of the answer after its question")

    def open(self) -> Filter:
        return perplexity_at_most(self.at_most)


class Annotation(Step):
    """AI annotation: keep answers that a model rates well (Bai et al., 2212.08073; Lee et al., 2309.00267)."""

    name = "annotation"
    reads = RATING
    at_least: float = Field(7, ge=1, le=10, description="lowest expected rating, from 1 to 10")

    def open(self) -> Filter:
        return rating_at_least(self.at_least)


class SelfConsistency(Step):
    """Keep answers that agree with the vote of all answers to their question (Huang et al., 2210.11610)."""

    name = "self_consistency"
    reads = VOTE
    at_least: float = Field(
        0.5, ge=0, le=1, description="minimum share of a question's answers for the voted one"
    )
    drop_ties: bool = Field(True, description="drop questions on which two answers share the most votes")
    answer: Literal["stated", "text"] = Field(
        "stated",
        description="what votes: the short answer that a text states (`The answer is 18.`), or the whole `text`, case "
        "and white space aside",
    )

    def open(self) -> Filter:
        return agrees_clearly(self.at_least, self.drop_ties)


class NearDuplicates(Step):
    """Keep examples that share few n-grams with those that were kept: MinHash with LSH, for large sets."""

    name = "near_duplicates"
    modules = ("rensa",)
    extra = "filters"
    at_most: float = Field(0.8, gt=0, lt=1, description="highest estimated Jaccard similarity of n-grams")
    ngram: int = Field(3, ge=1, description="tokens of an n-gram")
    compare: pools.Compared = _COMPARE
    tokeniser: TokeniserName = _tokeniser()

    def open(self) -> Filter:
        from selfimprove_dagster.filters.near import unlike_by_minhash

        return unlike_by_minhash(self.at_most, self.compare, TOKENISERS[self.tokeniser], self.ngram)


class Meaning(Step):
    """Semantic novelty: keep examples whose meaning resembles none that was kept, by embeddings."""

    name = "meaning"
    extra = "filters"
    model: ModelPath = Field(
        description="embedding model: a folder, or a name on the Hub such as `minishlab/potion-base-8M`"
    )
    library: Literal["model2vec", "transformers"] = Field(
        "model2vec",
        description="`model2vec` for static embeddings; `transformers` for any encoder, with the mean over its tokens",
    )
    at_most: float = Field(
        0.9, gt=0, lt=1, description="highest cosine similarity to an example that was kept"
    )
    compare: pools.Compared = _COMPARE

    @property
    def missing(self) -> list[str]:
        """Return the modules that are not installed."""
        return [] if find_spec(self.library) else [self.library]

    @property
    def recorded(self) -> dict[str, Any]:
        """Return what determines its decisions; the model by its files."""
        from selfimprove_dagster.filtering.models import folder_hash

        return {**super().recorded, "model": folder_hash(self.model)}

    def open(self) -> Filter:
        from selfimprove_dagster.filtering.models import embedder
        from selfimprove_dagster.filters.near import unlike_in_meaning

        return unlike_in_meaning(self.at_most, embedder(self.model, self.library), self.compare)


class Language(Step):
    """Keep examples in some languages, by lingua."""

    name = "language"
    modules = ("lingua",)
    extra = "filters"
    keep: list[str] = Field(min_length=1, description="languages to keep, as ISO 639-1 codes such as `en`")
    among: list[str] = Field(
        default_factory=list,
        description="languages to tell apart, which should contain those to keep; empty for all that lingua knows",
    )
    at_least: float = Field(0.5, ge=0, le=1, description="minimum probability of the languages to keep")
    accuracy: Literal["high", "low"] = Field(
        "high",
        description="`low` needs a tenth of the memory (0.1 instead of 1 GB for all languages) and errs on short texts",
    )

    @model_validator(mode="after")
    def _languages_are_known(self) -> Language:
        if not self.missing:
            from selfimprove_dagster.filtering.detectors import language_of

            for code in (*self.keep, *self.among):
                language_of(code)
        return self

    def open(self) -> Filter:
        from selfimprove_dagster.filtering.detectors import language_scores
        from selfimprove_dagster.filters.content import score_within

        scores = language_scores(self.keep, self.among, self.accuracy)
        return score_within(self.name, scores, f"probability of {', '.join(self.keep)}", least=self.at_least)


class PersonalData(Step):
    """Drop examples with personal data that has a pattern, such as mail addresses and card numbers, by Presidio."""

    name = "personal_data"
    modules = ("presidio_analyzer", "spacy")
    extra = "personal-data"
    language: str = Field("en", description="language of the texts, as an ISO 639-1 code")
    entities: list[str] = Field(
        default_factory=lambda: [
            *("EMAIL_ADDRESS", "PHONE_NUMBER", "CREDIT_CARD", "IBAN_CODE", "IP_ADDRESS", "CRYPTO", "US_SSN"),
        ],
        min_length=1,
        description="entities of Presidio; those that need a language model, such as PERSON, need `model`",
    )
    model: str | None = Field(
        None, description="installed spaCy pipeline for names and places; null for patterns alone"
    )
    at_least: float = Field(0.4, gt=0, le=1, description="score from which a finding counts")

    def open(self) -> Filter:
        from selfimprove_dagster.filtering.detectors import personal_data
        from selfimprove_dagster.filters.content import holds_none

        find = personal_data(self.language, self.entities, self.model, self.at_least)
        return holds_none(self.name, find, "personal data")


class Secrets(Step):
    """Drop examples with passwords, keys and tokens, by detect-secrets."""

    name = "secrets"
    modules = ("detect_secrets",)
    extra = "filters"

    def open(self) -> Filter:
        from selfimprove_dagster.filtering.detectors import secrets
        from selfimprove_dagster.filters.content import holds_none

        return holds_none(self.name, secrets, "secrets")


class Toxicity(Step):
    """Drop examples that a text classifier finds toxic."""

    name = "toxicity"
    model: ModelPath = Field(
        description="classifier for transformers: a folder, or a name on the Hub such as `unitary/toxic-bert`"
    )
    labels: list[str] = Field(
        default_factory=lambda: ["toxic"],
        min_length=1,
        description="labels of the model whose highest score counts",
    )
    at_most: float = Field(0.5, ge=0, le=1, description="highest score of these labels")

    @property
    def recorded(self) -> dict[str, Any]:
        """Return what determines its decisions; the model by its files."""
        from selfimprove_dagster.filtering.models import folder_hash

        return {**super().recorded, "model": folder_hash(self.model)}

    def open(self) -> Filter:
        from selfimprove_dagster.filtering.models import classifier
        from selfimprove_dagster.filters.content import score_within

        return score_within(self.name, classifier(self.model, self.labels), "toxicity", most=self.at_most)


BUILT_IN: Mapping[str, type[Step]] = {
    step.name: step
    for step in (
        *(Words, Duplicates, NearDuplicates, Novelty, Meaning),
        *(Perplexity, Annotation, SelfConsistency),
        *(Language, PersonalData, Secrets, Toxicity),
    )
}
"""The steps of this package by name."""


def renamed(rule: str, decide: Filter) -> Filter:
    """Return the filter, whose decisions have this rule."""

    def decided(candidates: pl.DataFrame) -> pl.DataFrame:
        return decide(candidates).with_columns(rule=pl.lit(rule))

    return decided
