"""Read answers as they are written in other languages and by other conventions.

A text is put into the terms that `answers.py` reads: "Die Antwort ist zwölf" becomes "The answer is 12" where the
tables below, or those of an experiment, say so. Digits of other scripts need no table (`canonical.plain_characters`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

PHRASES: Mapping[str, tuple[str, ...]] = {
    "Arabic": ("الجواب هو", "الإجابة هي", "الجواب:", "الإجابة:"),
    "Chinese": ("答案是", "答案为", "答案為", "答案:"),
    "Czech": ("odpověď je", "odpověď zní", "odpověď:"),
    "Dutch": ("het antwoord is", "het antwoord luidt", "antwoord:"),
    "French": ("la réponse est", "la réponse finale est", "réponse:", "réponse finale:"),
    "German": ("die antwort ist", "die antwort lautet", "die lösung ist", "das ergebnis ist", "antwort:", "ergebnis:"),
    "Hindi": ("उत्तर है", "उत्तर:"),
    "Indonesian": ("jawabannya adalah", "jawaban:"),
    "Italian": ("la risposta è", "la risposta finale è", "risposta:"),
    "Japanese": ("答えは", "答え:"),
    "Korean": ("정답은", "답은", "정답:", "답:"),
    "Polish": ("odpowiedź to", "odpowiedź brzmi", "odpowiedź:"),
    "Portuguese": ("a resposta é", "a resposta final é", "resposta:"),
    "Russian": ("ответ равен", "ответ —", "ответ:"),
    "Spanish": ("la respuesta es", "la respuesta final es", "respuesta:"),
    "Swedish": ("svaret är", "svar:"),
    "Turkish": ("cevap şudur", "cevap:"),
    "Ukrainian": ("відповідь:",),
    "Vietnamese": ("đáp án là", "câu trả lời là", "đáp án:"),
}  # fmt: skip
"""What introduces an answer, in lower case. A phrase that ends in a colon must open a line."""


WORDS: Mapping[str, str] = {
    "ja": "yes", "nein": "no", "oui": "yes", "non": "no", "sí": "yes", "sim": "yes", "não": "no", "nee": "no",
    "tak": "yes", "nie": "no", "да": "yes", "нет": "no", "так": "yes", "ні": "no", "evet": "yes", "hayır": "no",
    "是": "yes", "否": "no", "はい": "yes", "いいえ": "no", "예": "yes", "네": "yes", "아니요": "no",
    "हाँ": "yes", "नहीं": "no", "نعم": "yes", "لا": "no", "wahr": "true", "falsch": "false", "vrai": "true",
    "faux": "false", "verdadero": "true", "falso": "false",
}  # fmt: skip
"""Words for which an English one stands when they are, or begin, an answer."""


_NEGATIONS = ("nicht", "pas", "no es", "não é", "non è", "niet", "не", "不", "아니")
"""What makes of a phrase that introduces an answer a statement that something is not the answer."""


@dataclass(frozen=True)
class Conventions:
    """How answers are written. `phrases` and `words` are added to the tables of this module.

    `decimal`: with "comma", `1,2` is a number and `1.234` is 1234; with "point", `1,2` is a list of two numbers.
    `thoughts`: further pairs of marks around what a model thinks before it answers.
    """

    decimal: Literal["point", "comma"] = "point"
    phrases: tuple[str, ...] = ()
    words: tuple[tuple[str, str], ...] = ()
    thoughts: tuple[tuple[str, str], ...] = ()

    @cached_property
    def _phrases(self) -> tuple[str, ...]:
        every = (*(phrase for phrases in PHRASES.values() for phrase in phrases), *self.phrases)
        return tuple(" ".join(phrase.casefold().split()) for phrase in every)

    @cached_property
    def _words(self) -> dict[str, str]:
        return {word.casefold(): english for word, english in (*WORDS.items(), *self.words)}

    @cached_property
    def _introduction(self) -> re.Pattern[str]:
        labels = [phrase.removesuffix(":").rstrip() for phrase in self._phrases if phrase.endswith(":")]
        others = [phrase for phrase in self._phrases if not phrase.endswith(":")]
        negated = "|".join(map(re.escape, _NEGATIONS))
        return re.compile(
            rf"(?:(?<!\w)(?:{_any_of(others)})(?!\s*(?:{negated}))\s*:?|(?:(?<=\n)|^)[ \t#*]*(?:{_any_of(labels)})\s?:)"
            rf"[ \t*]*(?:({_any_of(self._words)})(?!\w))?",
            re.IGNORECASE,
        )

    @cached_property
    def _opening(self) -> re.Pattern[str]:
        return re.compile(rf"\s*({_any_of(self._words)})(?=\s*(?:[,.!:;]|$))", re.IGNORECASE)

    def statements_in_english(self, text: str) -> str:
        """Return a text in plain characters with "The answer is" for the phrases, and their words in English."""
        folded = text.casefold()
        if any(phrase.removesuffix(":") in folded for phrase in self._phrases):
            text = self._introduction.sub(
                lambda found: "\nThe answer is " + self._words.get((found[1] or "").casefold(), ""), text
            )
        return self.in_english(text)

    def in_english(self, answer: str) -> str:
        """Return an answer in plain characters with English for its first word, and with decimal points."""
        opening = self._opening.match(answer)
        if opening:
            answer = self._words[opening[1].casefold()] + answer[opening.end() :]
        return _with_points(answer) if self.decimal == "comma" else answer


DEFAULT = Conventions()
"""English and the languages of this module, with decimal points."""


def _any_of(texts: object) -> str:
    return "|".join(sorted(map(re.escape, texts), key=len, reverse=True))  # type: ignore[call-overload]


_NUMBER = re.compile(r"(?<![\w.,])\d+(?:[.,]\d+)+(?![\w.,]*\d)")


_SWAPPED = str.maketrans(".,", ",.")


_IN_COMMAS = re.compile(r"\d{1,3}(?:\.\d{3})+(?:,\d+)?|\d+,\d+")


def _with_points(text: str) -> str:
    """Return the text with `1,234.5` for `1.234,5`; what is no number with a decimal comma stays."""
    return _NUMBER.sub(
        lambda found: found[0].translate(_SWAPPED) if _IN_COMMAS.fullmatch(found[0]) else found[0], text
    )
