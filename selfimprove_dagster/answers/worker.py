"""Read expressions by math-verify, in a separate process: JSON lines in, JSON lines out.

A line is an expression in LaTeX; the answer is its form, or null if it cannot be read. Equal expressions have equal
forms, as far as simplification shows that they are equal.
"""

from __future__ import annotations

import json
import logging
import re
import resource
import sys
from typing import Any

import sympy
from latex2sympy2_extended.math_normalization import NormalizationConfig
from math_verify.parser import LatexExtractionConfig, parse
from sympy.core.relational import Equality, Relational

_MEMORY = 4 << 30
"""Maximum address space in bytes."""

_EXPONENT, _FACTORIAL = 1000, 200
"""Largest exponent, and largest argument of a factorial, that is evaluated."""

_READ = [
    LatexExtractionConfig(
        boxed_match_priority=-1,
        normalization_config=NormalizationConfig(
            basic_latex=True, units=False, malformed_operators=True, nits=False, boxed="none", equations=False
        ),
    )
]


def form(latex: str) -> str | None:
    """Return the form of an expression: a fraction `p/q`, or LaTeX that has the same form itself."""
    for _ in range(3):
        written = _written(_read(latex))
        if written is None or written == latex:
            return written
        latex = written
    return None


def _read(latex: str) -> Any:
    found = parse(f"${latex}$", _READ, fallback_mode="no_fallback", parsing_timeout=None)
    return found[0] if found else None


def _written(expression: Any) -> str | None:
    """Return an expression in its simplest form, as text; None if it is not a value."""
    if isinstance(expression, sympy.MatrixBase):
        simple: Any = expression.applyfunc(_simple)
    elif isinstance(expression, Relational):
        simple = _relation(expression)
    elif isinstance(expression, sympy.Set):
        simple = expression.doit()
    elif isinstance(expression, sympy.Expr):
        simple = _simple(expression)
        if simple.is_Rational:
            return f"{simple.p}/{simple.q}"
    else:
        return None
    if simple in (sympy.true, sympy.false) or simple.has(sympy.nan, sympy.zoo):
        return None
    text = sympy.latex(simple, ln_notation=True, mat_delim="", mat_str="pmatrix")
    for command in (r"\left", r"\right"):
        text = text.replace(command, "")
    return re.sub(r"(?<=[(\[{]) | (?=[)\]}])", "", " ".join(text.split()))


def _relation(relation: Relational) -> Any:
    """Return a relation with its variables on the left, in lowest terms, with a positive first coefficient."""
    left, right = _simple(relation.lhs), _simple(relation.rhs)
    if isinstance(relation, Equality):
        numerator = sympy.fraction(sympy.together(sympy.expand(left - right)))[0]
        symbols = sorted(numerator.free_symbols, key=str)
        if symbols and numerator.is_polynomial(*symbols):
            whole = sympy.Poly(numerator, *symbols).primitive()[1]
            numerator = (whole if whole.LC() > 0 else -whole).as_expr()
        return Equality(numerator, 0, evaluate=False)
    found = relation.func(left, right, evaluate=False)
    return found.canonical if found.free_symbols else found


def _simple(expression: sympy.Expr) -> sympy.Expr:
    """Return the simplest form of an expression. Raises ValueError for numbers that are too large to write."""
    _bounded(expression)
    exact: dict[sympy.Basic, sympy.Basic] = {
        number: sympy.Rational(str(number)) for number in expression.atoms(sympy.Float)
    }
    exact.update({symbol: sympy.I for symbol in expression.free_symbols if symbol.name == "i"})
    simple = sympy.simplify(expression.xreplace(exact).doit())
    if simple.is_number:
        return sympy.radsimp(sympy.sqrtdenest(sympy.expand(simple)))
    # A quotient of expanded polynomials without a common factor is the same however it was written.
    return sympy.cancel(sympy.expand(simple))


def _bounded(expression: sympy.Basic) -> None:
    """Raise ValueError before a tower of powers or a factorial is evaluated that has too many digits."""
    for part in sorted(expression.atoms(sympy.Pow, sympy.factorial), key=lambda one: one.count_ops()):
        number = part.exp if isinstance(part, sympy.Pow) else part.args[0]  # smaller parts have been checked
        most = _EXPONENT if isinstance(part, sympy.Pow) else _FACTORIAL
        if number.is_number and abs(number.evalf(5)) > most:
            raise ValueError(f"{part} is too large")


def main() -> None:
    """Answer line by line until the input ends."""
    out, sys.stdout = sys.stdout, sys.stderr
    logging.disable()
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    for line in sys.stdin:
        try:
            found = form(json.loads(line))
        except (Exception, RecursionError):
            found = None
        print(json.dumps(found), file=out, flush=True)


if __name__ == "__main__":
    main()
