"""Calculate with the four operations (Schick et al., 2302.04761, section 3)."""

from __future__ import annotations

import ast
import math
import operator
import re
from fractions import Fraction

from simpleeval import InvalidExpression, SimpleEval

from selfimprove_dagster.tools.base import Context, ToolError, read_text

LONGEST = 200
"""Maximum length of an expression, which bounds its evaluation to milliseconds."""


DEEPEST = 20
"""Maximum depth of parentheses."""


LONGEST_NUMBER = 15
"""Maximum number of digits of a number, and of the integer part of a result."""


_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-"})


_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])", re.ASCII)


_NUMBER = re.compile(r"\d+(?:\.\d*)?|\.\d+", re.ASCII)


_LEADING_ZEROS = re.compile(r"(?<![\d.])0+(?=\d)", re.ASCII)


_FORBIDDEN = re.compile(r"[^0-9.+\-*/() ]")


_INTRODUCTION = """\
Your task is to add calls to a calculator to a text, wherever a number in it can be worked out from other \
numbers. A call is written "[Calculator(expression)]" just before that number, where "expression" uses +, -, \
* and / only. Leave the text itself as it is. Some examples:"""


_SHOTS = (
    (
        "The orchard has 14 rows of 25 trees, 350 trees in all.",
        "The orchard has 14 rows of 25 trees, [Calculator(14 * 25)] 350 trees in all.",
    ),
    (
        "Of the 640 houses 480 were rebuilt, which is 75% of them.",
        "Of the 640 houses 480 were rebuilt, which is [Calculator(480 / 640 * 100)] 75% of them.",
    ),
    (
        "She had 37 beads, gave away 8 and found 5 more, so that 34 were left.",
        "She had 37 beads, gave away 8 and found 5 more, so that [Calculator(37 - 8 + 5)] 34 were left.",
    ),
    (
        "The bridge was opened in 1871 and closed in 1934, after 63 years.",
        "The bridge was opened in 1871 and closed in 1934, after [Calculator(1934 - 1871)] 63 years.",
    ),
)


class Calculator:
    """A calculator with `+ - * /`, parentheses and decimals; the result is rounded to two decimals.

    Numbers are exact fractions until they are rounded, half away from zero. Trailing zeros are left out, as
    in table 1 of the paper (`27 + 4 * 2` → `35`) and the `0.29` of the talk. `×`, `÷` and thousands
    separators are accepted. It is safe by construction: expressions are short and flat, without names and
    powers.
    """

    name = "Calculator"
    version = "1"
    description = "Calculates an expression of numbers with +, -, *, / and parentheses."
    introduction, shots = _INTRODUCTION, _SHOTS

    def parse(self, arguments: str) -> str | ToolError:
        text = read_text(arguments, LONGEST)
        if isinstance(text, ToolError):
            return text
        text = text.translate(_SIGNS)
        text = _THOUSANDS.sub(lambda number: number.group().replace(",", ""), text)
        if found := _FORBIDDEN.search(text):
            return ToolError(f"{found.group()!r} is no part of a sum: use numbers, + - * / and parentheses")
        depth = deepest = 0
        for sign in text:
            depth += (sign == "(") - (sign == ")")
            deepest = max(deepest, depth)
        if deepest > DEEPEST:
            return ToolError(f"parentheses {deepest} deep: at most {DEEPEST}")
        if any(len(number.replace(".", "")) > LONGEST_NUMBER for number in _NUMBER.findall(text)):
            return ToolError(f"a number of more than {LONGEST_NUMBER} digits")
        return text

    def run(self, input: str, context: Context) -> str | ToolError:
        try:
            value = _evaluator().eval(_without_leading_zeros(input))
        except ZeroDivisionError:
            return ToolError("division by zero")
        except (InvalidExpression, SyntaxError, TypeError, ValueError):
            return ToolError("not a sum: use numbers, + - * / and parentheses")
        if abs(value) >= 10**LONGEST_NUMBER:
            return ToolError(f"a result of more than {LONGEST_NUMBER} digits")
        return _two_decimals(value)


def _evaluator() -> SimpleEval:
    operators = {
        ast.Add: operator.add,
        ast.Sub: operator.sub,
        ast.Mult: operator.mul,
        ast.Div: operator.truediv,
        ast.USub: operator.neg,
        ast.UAdd: operator.pos,
    }
    evaluator = SimpleEval(operators=operators, functions={}, names={})
    evaluator.nodes = {
        **{kind: evaluator.nodes[kind] for kind in (ast.Expr, ast.BinOp, ast.UnaryOp)},
        ast.Constant: _exact,
    }
    return evaluator


def _exact(node: ast.Constant) -> Fraction:
    """Return the number exactly as written, not as the nearest binary number."""
    if not isinstance(node.value, (int, float)):
        raise InvalidExpression("not a number")
    return Fraction(repr(node.value))


def _without_leading_zeros(text: str) -> str:
    """Remove leading zeros, e.g. of `007`, which Python does not accept."""
    return _LEADING_ZEROS.sub("", text)


def _two_decimals(value: Fraction) -> str:
    hundredths = math.floor(abs(value) * 100 + Fraction(1, 2))
    shown = f"{hundredths // 100}.{hundredths % 100:02}".rstrip("0").rstrip(".")
    return f"-{shown}" if value < 0 and hundredths else shown
