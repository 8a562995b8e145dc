"""Detectors of maintained libraries: languages (lingua), personal data (Presidio), secrets (detect-secrets)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Literal

from selfimprove_dagster.filters.content import Scores, Spans

_BY_ENTROPY = {"Base64HighEntropyString", "HexHighEntropyString"}
"""Plugins of detect-secrets that take words of prose for secrets."""


def language_scores(keep: Sequence[str], among: Sequence[str], accuracy: Literal["high", "low"]) -> Scores:
    """Return the function that gives each text the probability that it is in one of the languages to keep.

    A text without letters has none. Raises ValueError for a language that lingua does not know.
    """
    from lingua import LanguageDetectorBuilder

    codes = {code: language_of(code) for code in dict.fromkeys([*keep, *among])}
    if among and len(codes) > 1:
        builder = LanguageDetectorBuilder.from_iso_codes_639_1(*codes.values())
    else:
        builder = LanguageDetectorBuilder.from_all_languages()
    detector = (builder.with_low_accuracy_mode() if accuracy == "low" else builder).build()
    wanted = {codes[code] for code in keep}

    def score(texts: Sequence[str]) -> list[float | None]:
        found: list[float | None] = []
        for values in detector.compute_language_confidence_values_in_parallel(list(texts)):
            likely = {one.language.iso_code_639_1: one.value for one in values}
            total = sum(likely.values())
            found.append(sum(likely.get(code, 0.0) for code in wanted) if total > 0 else None)
        return found

    return score


def language_of(code: str) -> Any:
    """Return lingua's code of a language. Raises ValueError if there is none."""
    from lingua import IsoCode639_1

    found = getattr(IsoCode639_1, code.upper(), None)
    if found is None:
        raise ValueError(f"lingua knows no language {code!r}; give ISO 639-1 codes such as en")
    return found


def secrets(texts: Sequence[str]) -> list[list[str]]:
    """Return the kinds of secrets in each text: private keys, tokens of known services, passwords after their name."""
    from detect_secrets.core.scan import scan_line
    from detect_secrets.settings import transient_settings

    with transient_settings({"plugins_used": [{"name": name} for name in _plugins()]}):
        return [[secret.type for line in text.splitlines() for secret in scan_line(line)] for text in texts]


@cache
def _plugins() -> tuple[str, ...]:
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class

    names = {plugin.__name__ for plugin in get_mapping_from_secret_type_to_class().values()}
    return tuple(sorted(names - _BY_ENTROPY))


def personal_data(language: str, entities: Sequence[str], model: str | None, least: float) -> Spans:
    """Return the function that finds the kinds of personal data in each text.

    Without a spaCy pipeline `model` only entities with a pattern are found.
    """
    import spacy
    import tldextract
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    # Presidio asks it whether the domain of a mail address exists. The list of domains is that of the installed
    # version, so that decisions can be repeated, and nothing is downloaded.
    tldextract.tldextract.TLD_EXTRACTOR = tldextract.TLDExtract(suffix_list_urls=())
    engine = SpacyNlpEngine(models=[{"lang_code": language, "model_name": model or language}])
    engine.nlp = {language: spacy.load(model) if model else spacy.blank(language)}
    registry = RecognizerRegistry(supported_languages=[language])
    registry.load_predefined_recognizers(languages=[language], nlp_engine=engine if model else None)
    analyzer = AnalyzerEngine(nlp_engine=engine, registry=registry, supported_languages=[language])

    def find(texts: Sequence[str]) -> list[list[str]]:
        return [
            [
                one.entity_type
                for one in analyzer.analyze(text, language, entities=list(entities), score_threshold=least)
            ]
            for text in texts
        ]

    return find
