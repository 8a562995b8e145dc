"""Compute the canonical form of an answer. Two answers agree if their canonical forms are equal.

    number        `1,000` = `1000.0` = `$1000` = `one thousand` → `1000`; `1/2` → `0.5`; `25%` → `25`
    option        `(B)` = `B)` = `option b` → `B`; an option with its text, `(B) 12 apples`, is the option
    truth value   `Yes`, `Yes, they can` → `yes`; likewise no, true, false; yes and true are two answers
    date          `March 5, 2021` = `5th of March 2021` → `2021-03-05`; `3/5/2021` is ambiguous, so text
    time of day   `5 pm` = `5:00 p.m.` → `17:00`
    mathematics   lists, tuples, intervals and expressions: `x^2+3x` = `x(x+3)` → `x^{2} + 3x`
    text          anything else: case folded, leading article and outer punctuation dropped, spaces collapsed

`canonical_answer` is idempotent. `numerals.py` describes which numbers are read and how units are handled,
`expressions.py` the forms of mathematics, and `languages.py` other languages and decimal commas.
"""

from __future__ import annotations

import datetime
import re
import unicodedata
from functools import lru_cache
from math import factorial

from selfimprove_dagster.answers.expressions import Form, expression_form, is_equation_side, several_options
from selfimprove_dagster.answers.languages import DEFAULT, Conventions
from selfimprove_dagster.answers.numerals import number_form

MAX_ANSWER = 400
"""Maximum length of a bare answer."""


MAX_TEXT_ANSWER = 200
"""Maximum length of an answer that is not a number, option, truth value, date or time."""


# --- characters ---

_VULGAR = {
    "½": "1/2", "⅓": "1/3", "⅔": "2/3", "¼": "1/4", "¾": "3/4", "⅕": "1/5", "⅖": "2/5",
    "⅗": "3/5", "⅘": "4/5", "⅙": "1/6", "⅚": "5/6", "⅛": "1/8", "⅜": "3/8", "⅝": "5/8", "⅞": "7/8",
}  # fmt: skip


_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")


_SIGNS = str.maketrans(
    {
        **dict.fromkeys("−‐‑‒–﹣－", "-"),
        **dict.fromkeys("×∗⋅·•", "*"),
        **dict.fromkeys("≅≃", "≈"),
        **dict.fromkeys("‘’ʼ", "'"),
        **dict.fromkeys("“”„«»", '"'),
        **dict.fromkeys("\u2028\u2029\x85", "\n"),
        "—": " -- ", "―": " -- ", "⁄": "/", "∕": "/", "÷": "/", "→": "->", "٫": ".", "٬": ",", "İ": "I",
        "،": ",", "。": ". ", "：": ":",
    }
)  # fmt: skip


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


_FOREIGN = re.compile(r"[^\x00-\x7f]")


def plain_characters(text: str) -> str:
    """Replace look-alikes by ASCII: digits of all scripts, minus signs, spaces, quotes, fractions.

    Control, format and surrogate characters are dropped; line ends become `\\n`.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():
        # Before NFKC, which would turn 2½ into 21⁄2 and 10² into 102.
        text = re.sub("[" + "".join(_VULGAR) + "]", lambda found: f" {_VULGAR[found[0]]}", text)
        text = re.sub("[⁰¹²³⁴-⁹⁻]+", lambda found: "^" + found[0].translate(_SUPERSCRIPTS), text)
        text = unicodedata.normalize("NFKC", text.translate(_SIGNS)).translate(_SIGNS)
        text = _FOREIGN.sub(_plain_character, text)
    return _CONTROL.sub("", text) if _CONTROL.search(text) else text


def _plain_character(found: re.Match[str]) -> str:
    character = found[0]
    category = unicodedata.category(character)
    if category == "Nd":
        return str(unicodedata.decimal(character))
    if category in ("Cc", "Cf", "Cs", "Co", "Cn"):
        return ""
    return " " if category.startswith("Z") else character


# --- markup ---

_LATEX = [
    (re.compile(r"(?<=\d)(?=\\[dtc]?frac)"), " "),  # a mixed number
    (re.compile(r"\\[dtc]?frac\s*\{\s*(-?[\d.,]{1,40})\s*\}\s*\{\s*([\d.,]{1,40})\s*\}"), r"\1/\2 "),
    (re.compile(r"\\[dtc]?frac\s*(\d)\s*(\d)"), r"\1/\2 "),
    (re.compile(r"\\[dtc]frac(?![a-z])"), r"\\frac"),
    (re.compile(r"\\(?:(?:text|math)(?:bf|it|rm|sf|tt)?|mbox|operatorname)\s*\{([^{}]{0,200})\}"), r" \1 "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\^\s*\{?\s*\\(?:circ|degree)\b\s*\}?|\\degree\b"), " degrees"),
    (re.compile(r"\\(?:times|cdot|ast)\b"), "*"),
    (re.compile(r"\\(?:approx|simeq)\b"), "≈"),
    (re.compile(r"\\(?:(?:left|right)(?:\.|\b)|[bB]igg?[lrm]?(?![a-z])|(?:display|text)style\b|q?quad\b)"), " "),
    (re.compile(r"\\[,;: ()\[\]]|~"), " "),
    (re.compile(r"\\([$%&#_])"), r"\1"),
    (re.compile(r"\$\s*([-+=<>≈])\s*\$"), r"\1"),  # a sign in a formula of its own
]  # fmt: skip


_BOLD = re.compile(r"(?<![\w)])\*\*+|\*\*+(?![\d(])|__+|`+")  # not the power in 2**3 or x**2


_MATRIX = re.compile(r"\\begin\s?\{([a-zA-Z]?matrix)\}.{0,400}?\\end\s?\{\1\}", re.DOTALL)


_DISPLAYED = re.compile(r"\$\$\s*([^$]{1,400}?)\s*\$\$")


_FACTORIAL = re.compile(r"(?<![\w.!)])(\d{1,2})!(?![!=\w])")


_SPACES = re.compile(r"\s+")


def plain_latex(text: str) -> str:
    """Convert LaTeX fractions of numbers, text, spacing and escapes to plain text; unknown commands stay.

    A displayed formula `$$…$$` becomes one in its line, `$…$`.
    """
    if "$$" in text:
        text = _DISPLAYED.sub(lambda found: f"${' '.join(found[1].split())}$", text)
    if "\\" not in text and "$" not in text:
        return text
    text = _MATRIX.sub(lambda found: found[0].replace("\\\\", r"\cr ").replace("\n", " "), text)
    text = text.replace("\\!", "").replace("\\\\", "\n")
    for pattern, replacement in _LATEX:
        text = pattern.sub(replacement, text)
    return text


def plain_factorials(formula: str) -> str:
    """Return a formula with the values of factorials of numbers, so that `!` is not taken for punctuation."""
    if "!" not in formula:
        return formula
    formula = _FACTORIAL.sub(lambda found: str(factorial(int(found[1]))), formula)
    return formula.rstrip() + "{}" if formula.rstrip().endswith("!") else formula


def plain_markdown(text: str) -> str:
    """Remove the markup of bold text and code."""
    return _BOLD.sub("", text) if "**" in text or "__" in text or "`" in text else text


# --- forms ---

_MONTHS = {
    name[:length]: number
    for number, name in enumerate(
        ["january", "february", "march", "april", "may", "june", "july", "august", "september", "october",
         "november", "december"], 1
    )
    for length in (3, 4, len(name))
}  # fmt: skip


_WEEKDAY = r"(?:(?:mon|tues|wednes|thurs|fri|satur|sun)day,?\s+)?"


_MONTH = r"(?P<month>[a-z]{3,9})\.?"


_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"


_YEAR = r",?\s+(?P<year>\d{4})"


_DATES = [
    re.compile(r"(?P<year>\d{4})(?P<mark>[-/])(?P<number>\d{1,2})(?P=mark)(?P<day>\d{1,2})"),
    re.compile(_WEEKDAY + _MONTH + r"\s+" + _DAY + _YEAR, re.IGNORECASE),
    re.compile(_WEEKDAY + r"(?:the\s+)?" + _DAY + r"\s+(?:of\s+)?" + _MONTH + _YEAR, re.IGNORECASE),
]


_CLOCK = re.compile(
    r"(?P<hour>\d{1,2})(?::(?P<minute>\d{2})(?::(?P<second>\d{2}))?)?(?:\s?(?P<half>[ap])\.?\s?m\b\.?)?",
    re.IGNORECASE,
)


_TRUTH = re.compile(r"(yes|no|true|false)(?:\s*$|\s*[,;:!]|\.(?!\s?\d)|\s+-)", re.IGNORECASE)


_OPTION = re.compile(
    r"(?:(?:[Oo]ption|[Cc]hoice|[Aa]nswer)\s+)?"
    r"(?:\(([A-Za-z])\)|\[([A-Za-z])\]|([A-Za-z])\)|([A-E])\.(?=\s)|([A-E]):|([A-Za-z])$)"
)


_INITIALS = re.compile(r"(?:[A-Z]\.\s?){2,}[A-Z]")


_OPTION_WORD = re.compile(r"(?:[Oo]ption|[Cc]hoice)\s+([A-E])\b(?!')")


_ANOTHER_OPTION = re.compile(r"[(\[][A-Za-z][)\]]|\b[A-E]\)")


_LABEL = re.compile(r"(?:#{2,6}|a:|(?:the |my )?(?:final )?answer(?:\s*[:=]|\s+is\b\s*:?))\s*", re.IGNORECASE)


_ARTICLE = re.compile(r"(?:the|a|an)\s+", re.IGNORECASE)


_TITLE = re.compile(r"\b(dr|mr|mrs|ms|prof|st|mt|jr|sr)\.(?=\s|$)")


_INITIAL = re.compile(r"\b([a-z])\.(?=[a-z])")


_FORMULA = re.compile(r"\$\$?(?!\d[\d.,]*\s)[^$]+\$\$?|\\\(.+\\\)|\\\[.+\\\]", re.DOTALL)


_OUTER = " \t\n.,;:!?\"'*_`"


_SEVERAL = re.compile(r",(?!\d{3})|\b(?:and|or)\b|;|[<>≤≥≠]")


_COMMA = re.compile(r"\s*,\s*")


def canonical_answer(raw: str, conventions: Conventions = DEFAULT) -> str | None:
    """Return the canonical form of a bare answer, such as a ground truth; None if it is empty.

    >>> [canonical_answer(raw) for raw in ("$1,000.00", "3/4", "25%", "(B)", "Yes", "Tom Brady.")]
    ['1000', '0.75', '25', 'B', 'yes', 'tom brady']
    """
    form = form_of(raw, conventions)
    return None if form is None else form.text


@lru_cache(maxsize=1 << 16)
def form_of(raw: str, conventions: Conventions = DEFAULT, formula: bool = False) -> Form | None:
    """Return the canonical form of a bare answer and the kind of answer; None if it is empty.

    `formula`: the answer was marked as mathematics, as by a box.
    """
    if len(raw) > MAX_ANSWER:
        return None
    formula = formula or is_formula(raw)
    answer = conventions.in_english(tidy(plain_factorials(raw) if formula else raw))
    label = _LABEL.match(answer)
    answer = answer[label.end() :] if label else answer
    form = typed_form(answer, formula)
    if form is not None:
        return form
    text = text_form(answer)
    # Folding may reveal a typed answer ("The (B).") or a second label; every step drops characters.
    if text is None or text == raw:
        return None if text is None else Form(text, "text")
    return form_of(text)


def answers_agree(left: str | None, right: str | None) -> bool:
    """Return whether two answers have the same canonical form.

    None (no answer) agrees with nothing, not even None.
    """
    if left is None or right is None:
        return False
    form = canonical_answer(left)
    return form is not None and form == canonical_answer(right)


def tidy(raw: str) -> str:
    """Return `raw` on one line, in plain characters, without markup or outer punctuation."""
    answer = plain_markdown(plain_latex(plain_characters(raw)))
    return _strip_outer(_SPACES.sub(" ", answer))


def is_formula(raw: str) -> bool:
    """Return whether the whole of a bare answer is one formula in `$…$`, `\\(…\\)` or `\\[…\\]`."""
    return _FORMULA.fullmatch(raw.strip()) is not None


def typed_form(answer: str, formula: bool = False) -> Form | None:
    """Return the form of a tidy answer that is more than text, else None. `formula`: it is marked as mathematics.

    A form that would not be read as itself is none, since two answers of that form would not agree.
    """
    form = _typed_form(answer, formula)
    if form is None or form.kind not in ("list", "tuple", "expression"):
        return form
    again = _typed_form(tidy(form.text), False)
    return form if again is not None and again.text == form.text else None


def _typed_form(answer: str, formula: bool) -> Form | None:
    if not answer:
        return None
    if not answer[0].isdigit():
        truth = _TRUTH.match(answer)
        if truth:
            return Form(truth[1].lower(), "truth value")
        if (options := several_options(answer)) is not None:
            return options
        option = _OPTION.match(answer) or _OPTION_WORD.match(answer)
        if option and not _ANOTHER_OPTION.search(answer, option.end()) and not _INITIALS.match(answer):
            letter: str = next(group for group in option.groups() if group)
            return Form(letter.upper(), "option")
    if (date := _date_form(answer)) is not None:
        return Form(date, "date")
    if (time := _time_form(answer)) is not None:
        return Form(time, "time")
    if (number := quantity_form(answer)) is not None:
        return Form(number, "number")
    return expression_form(answer, formula)


def quantity_form(answer: str) -> str | None:
    """Return the form of a tidy number, or of an equation with one on its right; `1/3 ≈ 0.33` is 1/3.

    An equation in several variables or terms, such as `3x + y = 4`, is no number.
    """
    exact, approximately, rounded = answer.partition("≈")
    if approximately:
        return quantity_form(_strip_outer(exact)) or number_form(_strip_outer(rounded))
    form = number_form(answer)
    if form is None and "=" in answer:
        *left, right = answer.split("=")
        if not any(_SEVERAL.search(side) or is_equation_side(side) for side in left):
            return number_form(_strip_outer(right))
    return form


def text_form(answer: str) -> str | None:
    """Return the form of an answer in words: folded, without a leading article or outer punctuation."""
    text = answer.casefold()
    text = _strip_outer(_ARTICLE.sub("", text, count=1) if _ARTICLE.match(text) else text)
    text = _INITIAL.sub(r"\1. ", _TITLE.sub(r"\1", text))
    if text[:1] in ("(", "["):  # (3,4) and (3, 4)
        text = _COMMA.sub(", ", text)
    return text if len(text) <= MAX_TEXT_ANSWER and any(map(str.isalnum, text)) else None


def _strip_outer(answer: str) -> str:
    """Remove outer punctuation, maths delimiters and brackets around the whole answer.

    A bracketed single letter keeps its brackets, which mark it as an option. A leading point before a digit
    stays, and so does a leading `$`, `-` or `+`.
    """
    while True:
        before = answer
        answer = answer.rstrip(_OUTER)
        head = answer.lstrip(_OUTER)
        if head[:1].isdigit() and re.search(r"(?<!\.)\.$", answer[: len(answer) - len(head)]):
            head = "." + head
        answer = head
        if answer.endswith("$") and not answer.startswith("$"):
            answer = answer[:-1]
        pair = answer[:1] + answer[-1:]
        if pair == "$$" and "$" not in answer[1:-1]:
            answer = answer[1:-1]
        elif pair in ("()", "[]", "{}") and len(answer) > 3:
            inner = answer[1:-1]
            if not any(mark in inner for mark in "()[]{}$,"):
                answer = inner
        elif pair in ("()", "[]", "{}") and answer[1:-1].isdigit():
            answer = answer[1:-1]
        answer = answer.strip()
        if answer == before:
            return answer


def _date_form(answer: str) -> str | None:
    for pattern in _DATES:
        match = pattern.fullmatch(answer)
        if match is None:
            continue
        parts = match.groupdict()
        month = int(parts["number"]) if "number" in parts else _MONTHS.get(parts["month"].lower(), 0)
        try:
            return datetime.date(int(parts["year"]), month, int(parts["day"])).isoformat()
        except ValueError:
            return None
    return None


def _time_form(answer: str) -> str | None:
    match = _CLOCK.match(answer)
    if match is None or not (match["minute"] or match["half"]) or answer[match.end() :].strip(" ."):
        return None
    hour, minute, second = (int(match[name] or 0) for name in ("hour", "minute", "second"))
    if match["half"]:
        if not 1 <= hour <= 12:
            return None
        hour = hour % 12 + (12 if match["half"] in "pP" else 0)
    if hour > 23 or minute > 59 or second > 59:
        return None
    return f"{hour:02}:{minute:02}" + (f":{second:02}" if match["second"] else "")
