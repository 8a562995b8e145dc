"""Read expressions of algebra by math-verify (Kydlíček 2025, github.com/huggingface/Math-Verify).

The library parses LaTeX and SymPy simplifies what it finds. Both can hang, and the library's own time limit is an
alarm, which only the main thread can set. So they run in a process of their own (`worker.py`) with a time limit here.
"""

from __future__ import annotations

import atexit
import re
import threading
from functools import lru_cache

from selfimprove_dagster.own_process import OwnProcess, Stopped

TIME_LIMIT = 5.0
"""Time limit of an expression in seconds, as in math-verify."""


START_LIMIT = 120.0
"""Time limit for loading math-verify and SymPy, in seconds."""


LONGEST = 200
"""Maximum length of an expression."""


_FUNCTIONS = "arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp|min|max|gcd|lcm|det"


_TO_LATEX = [
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"\s*\*\s*"), r" \\cdot "),
    (re.compile(r"√\s*\(([^()]*)\)|(?<![\\a-zA-Z])sqrt\s*\(([^()]*)\)"), r"\\sqrt{\1\2}"),
    (re.compile(r"√\s*(\w+)"), r"\\sqrt{\1}"),
    (re.compile(rf"(?<![\\a-zA-Z])({_FUNCTIONS}|pi|infty)(?![a-zA-Z])"), r"\\\1 "),
    (re.compile(r"(?<![\\a-zA-Z])(?:infinity|inf|oo)(?![a-zA-Z])|∞"), r"\\infty "),
    (re.compile("π"), r"\\pi "),
    (re.compile("≤"), r"\\le "),
    (re.compile("≥"), r"\\ge "),
    (re.compile("≠"), r"\\ne "),
    (re.compile(r"\^\s*\(([^()]*)\)"), r"^{\1}"),
    (re.compile(r"\^\s*(-?\d+)"), r"^{\1}"),
    (re.compile(r"(?<=\d),(?=\d{3}(?!\d))"), ""),
    (re.compile(r"(?<![\w.\\}])(\d+)\s?/\s?(\d+)(?![\w.])"), r"\\frac{\1}{\2}"),
    (re.compile(r"\\cr\b"), r"\\\\"),
    (re.compile(r"\{\}"), ""),
]  # fmt: skip


_COMMAND = re.compile(r"\\(?:begin|end)\s?\{[a-zA-Z]?(?:matrix|array)\}|\\[a-zA-Z]+|\\\\")


_SIGN = re.compile(r"\\[a-zA-Z]|[√π∞]")


_NO_VALUE = re.compile(r"\\(?:text|mathrm|operatorname|mbox|boxed|begin\{(?![a-zA-Z]?matrix))")


_OTHER = re.compile(r"[^\w\s.,+\-*/^=<>!()\[\]{}|&'±]")


_LETTERS = re.compile(r"[A-Za-z]+")


_PRODUCT = re.compile(r"[A-Za-z]|[abcmnk]?[xyz]{1,3}|[abc]{2,3}")
"""Letters that are variables rather than a word."""


_WORDS = frozenset(
    (
        "am",
        "pm",
        "cm",
        "mm",
        "km",
        "kg",
        "mg",
        "ml",
        "ft",
        "mi",
        "hr",
        "min",
        "sec",
        "lb",
        "oz",
        "mph",
        "by",
        "no",
    )
)


_NOT_ALGEBRA = re.compile(
    r"[A-Za-z]\d|[A-Za-z]\.|\d[eE][-+]?\d|\d\s*-\s*\d+\s*$|[-+*/^=<>_\\]\s*$|^[*/^=<>]|^\s*n/a\s*$|\d{40}"
)
"""Names such as H2O, abbreviations, large powers of ten, ranges, and what is cut off."""


_OPERATOR = re.compile(r"[-+*/^=<>!|±]|\d\s?[A-Za-z(]|\)\s?\(")


def is_algebra(text: str, formula: bool) -> bool:
    """Return whether a tidy text is an expression of algebra, without words.

    `formula`: the text was marked as mathematics. Only then can it be arithmetic without a variable or a command.
    """
    if not text or len(text) > LONGEST or _NOT_ALGEBRA.search(text):
        return False
    latex = as_latex(text)
    rest = _COMMAND.sub(" ", latex)
    if _NO_VALUE.search(latex) or _OTHER.search(rest):
        return False
    letters = _LETTERS.findall(rest)
    for run in letters:
        if run.lower() in _WORDS or not (_PRODUCT.fullmatch(run) or (formula and len(run) <= 3)):
            return False
    if _SIGN.search(text):
        return True
    return bool(_OPERATOR.search(text)) and bool(formula or letters)


def as_latex(text: str) -> str:
    """Return LaTeX for an expression that may be written as in a program or with signs of Unicode."""
    for pattern, replacement in _TO_LATEX:
        text = pattern.sub(replacement, text)
    return " ".join(text.split())


_PROCESS = OwnProcess("selfimprove_dagster.answers.worker", "the reader of expressions")
atexit.register(_PROCESS.end)


_LOCK = threading.Lock()


@lru_cache(maxsize=1 << 16)
def symbolic_form(text: str) -> str | None:
    """Return the form of an expression: a fraction `p/q` for a number, else LaTeX; None if there is none.

    There is none for what cannot be parsed, for numbers with more than a few hundred digits, and for what takes longer
    than the time limit.
    """
    with _LOCK:
        try:
            if not _PROCESS.runs:
                _PROCESS.start()
                _PROCESS.ask("1", START_LIMIT)
            found: str | None = _PROCESS.ask(as_latex(text), TIME_LIMIT)
        except Stopped:
            _PROCESS.end()
            return None
    if found is None:
        return None
    found = re.sub(r"(?<=\d) (?=[a-zA-Z]|\\(?!cdot\b))", "", found.replace("\\\\", r"\cr "))
    return found + "{}" if found.endswith("!") else found
