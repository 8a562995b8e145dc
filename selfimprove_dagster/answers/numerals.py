"""Read numbers as people and models write them, and convert them to one form for comparison.

A number becomes an exact `Fraction`, then a string: a plain decimal if it terminates (`18`, `-0.5`), else a
reduced fraction (`1/3`). Covered: signs, thousands separators (comma, space, repeated dots, Indian groups),
decimal commas after groups (`1.234,50`; `languages.py` has the others), scientific notation, small powers
(`10^6`), fractions, mixed numbers, scale words (`1.5 million`, `$5k`), English number words, labels (`No. 5`), and a
unit or currency after or before the number.

Words after the number are treated as a unit and dropped. So `25%` is `25`, `50 cents` is `50` and `2 dozen`
is `2`: sets of word problems state their ground truth without a unit, in the unit of the question ("what
percentage …": `25`; "how many dozen …": `2`). Units are not converted.

Algebra (`2x`, `3 + x`), ranges, lists, compound measures (`3 hours 20 minutes`) and numbers with more than
about a hundred digits are not read. The input must be on one line, cleaned and without markup
(`canonical.py`).
"""

from __future__ import annotations

import re
from decimal import Context, Decimal, localcontext
from fractions import Fraction

MAX_DIGITS = 120
"""Maximum number of digits in a written number."""


MAX_EXPONENT = 100
"""Maximum exponent of a power of ten; `1e999999999` must not be expanded."""


MAX_FRACTION_DIGITS = 60
"""Maximum number of digits of a numerator or denominator."""


FLOAT_DIGITS = 15
"""Number of significant digits that every IEEE double preserves; further digits of a printed float are noise."""


_DECIMAL = r"""(?:
    \d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d,]*\d)      # 1,234.5
  | \d{1,2}(?:,\d{2})+,\d{3}(?:\.\d+)?(?![\d,]*\d)  # 12,34,567
  | \d{1,3}(?:\.\d{3})+,\d{1,2}(?!\d)             # 1.234,50
  | \d{1,3}(?:\.\d{3}){2,}(?![\d.]*\d)            # 1.234.567
  | \d{1,3}(?:[ ]\d{3})+(?:\.\d+)?(?![\d,/-]|[ ]\d)  # 1 234 567
  | \d+(?:\.\d+|\.(?=$))?(?!,\d)                  # 18 18.0 18.
  | \.\d+                                         # .5
)"""


_SCALES = {
    "hundred": 100,
    "thousand": 1_000,
    "million": 1_000_000,
    "billion": 1_000_000_000,
    "trillion": 1_000_000_000_000,
}


_NUMBER = re.compile(
    rf"""
    (?P<sign>[-+])?
    (?:
        (?P<whole>\d{{1,9}})(?:\s+and)?\s+(?P<part>\d{{1,9}})\s?/\s?(?P<of>\d{{1,9}})(?![\d/.])
      | (?P<numerator>{_DECIMAL})\s?/\s?(?P<denominator>{_DECIMAL})(?![\d/])
      | (?P<base>\d{{1,4}})\s?\^\s?[{{(]?(?P<power>-?\d{{1,3}})[}})]?(?![\d^])
      | (?P<decimal>{_DECIMAL})
        (?:[eE](?P<exponent>[-+]?\d{{1,9}})
          |\s?[*x]\s?10\s?\^\s?[{{(]?(?P<ten>[-+]?\d{{1,9}})[}})]?)?(?![\d^])
    )
    (?:\s?(?P<scale>hundred|thousand|million|billion|trillion)s?\b|(?P<kilo>[kK])(?![\w'/]))?
    """,
    re.VERBOSE | re.IGNORECASE,
)


_CURRENCY = r"(?:us|a|c|nz|hk|s)?[$£€¥₹]|\b(?:usd|eur|gbp|inr|aud|cad|rs)\b\.?"


_PREFIX = re.compile(rf"([-+])?\s?(?:{_CURRENCY})\s?(?=[-+.]?\d)", re.IGNORECASE)


_QUALIFIER = re.compile(
    r"(?:about|approximately|approx\.?|around|roughly|nearly|almost|exactly|precisely|only|just|simply"
    r"|equal to|equals|(?:a|the)?\s?(?:grand )?total of|an average of|[~≈])\s+|[~≈]|(?:nos?\.|nr\.|№|#)\s?(?=\d)",
    re.IGNORECASE,
)


_NEGATIVE = re.compile(r"(?:minus|negative)\s+(?=(?:us|rs\.?|[$£€¥₹])?\s?[\d.])", re.IGNORECASE)


_POWER_OF_UNIT = re.compile(r"(?<=[a-z])(?:\s?\^\{?[23]\}?|[23])(?![\w^])", re.IGNORECASE)


_NOT_A_UNIT = re.compile(
    # Algebra (such as a letter at the end that is no unit), other quantities joined on, or a numbered list item
    # ("3. Add them").
    r"\s?[xyzni](?![a-z'])|\s?(?:[abefjkopqrtuvw]|[abc]?[xyz]{1,3}|[abc]{2,3})$"
    r"|\s?(?:pi|sqrt|mod)\b|[.:](?=.)|\s?-\s|'s\b"
    r"|\s(?:and|or|to|through|minus|plus|divided|over|versus|vs)\b"
    r"|\s(?:halves|thirds|fourths|fifths|sixths|sevenths|eighths|ninths|tenths)\b",
    re.IGNORECASE,
)


_MATHEMATICS = re.compile(r"[0-9=+*<>^\\{}|_√π≈]")


_VERB = re.compile(r"\b(?:is|are|was|were|has|have|had|will)\b", re.IGNORECASE)  # not "16 eggs are laid"


_AND_A_PART = re.compile(r"\s(?:and )?(?:a|one)[ -](half|third|quarter|fourth)\b", re.IGNORECASE)


_ONES = {
    "zero": 0, "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8,
    "nine": 9, "ten": 10, "eleven": 11, "twelve": 12, "thirteen": 13, "fourteen": 14, "fifteen": 15,
    "sixteen": 16, "seventeen": 17, "eighteen": 18, "nineteen": 19,
}  # fmt: skip


_TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fourty": 40, "fifty": 50, "sixty": 60, "seventy": 70,
    "eighty": 80, "ninety": 90,
}  # fmt: skip


_PARTS = {
    "half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fourth": 4, "fourths": 4,
    "fifth": 5, "fifths": 5, "sixth": 6, "sixths": 6, "seventh": 7, "sevenths": 7, "eighth": 8, "eighths": 8,
    "ninth": 9, "ninths": 9, "tenth": 10, "tenths": 10, "hundredth": 100, "hundredths": 100,
}  # fmt: skip


_WORD = re.compile(r"[\s-]*([a-z]+)", re.IGNORECASE)


_CARDINALS = _ONES.keys() | _TENS.keys()


_NUMBER_WORDS = _CARDINALS | _SCALES.keys() | _PARTS.keys() - {"quarter", "quarters"} | {"point"}


_FIRST_WORDS = _ONES.keys() | _TENS.keys() | {"a", "an", "half", "minus", "negative"}


def number_form(text: str) -> str | None:
    """Return the canonical form of the only number in `text`, or None.

    `text` may have a qualifier and a currency before the number and a unit after it, nothing else.
    """
    text = _QUALIFIER.sub("", text, count=1) if _QUALIFIER.match(text) else text
    text = _NEGATIVE.sub("-", text, count=1) if _NEGATIVE.match(text) else text
    value = _in_digits(text)
    if value is None:
        value = _in_words(text)
    return None if value is None else format_number(value)


def format_number(value: Fraction) -> str | None:
    """Return a plain decimal if `value` terminates, else `p/q` in lowest terms; None if it is too long.

    Digits beyond the precision of a double are noise of a printed float: `0.30000000000000004` becomes `0.3`,
    and `10.833333333333332` becomes `65/6`, like `65/6` itself. Otherwise two paths that add in a different
    order would vote for different answers.
    """
    if value.denominator == 1:
        return str(value.numerator) if abs(value.numerator) < 10 ** (MAX_EXPONENT + 1) else None
    if not _terminates(value.denominator):
        longest = 10**MAX_FRACTION_DIGITS
        too_long = abs(value.numerator) >= longest or value.denominator >= longest
        return None if too_long else f"{value.numerator}/{value.denominator}"
    with localcontext(Context(prec=400)):
        decimal = Decimal(value.numerator) / Decimal(value.denominator)
    places, digits = _size(decimal)
    if places >= 10 and digits > FLOAT_DIGITS:
        decimal = decimal.normalize(Context(prec=FLOAT_DIGITS))
        places, digits = _size(decimal)
    if places >= 10 and digits >= 12:
        # A tolerance of two units in the last place: a coincidence at this length is very unlikely.
        written = Fraction(decimal)
        simple = written.limit_denominator(1000)
        if simple != written and abs(simple - written) <= Fraction(2, 10**places):
            return format_number(simple)
    return f"{decimal.normalize(Context(prec=400)):f}"


def _size(decimal: Decimal) -> tuple[int, int]:
    """Return (decimal places, significant digits), without trailing zeros."""
    _, digits, exponent = decimal.normalize(Context(prec=400)).as_tuple()
    return -int(exponent), len(digits)


def _terminates(denominator: int) -> bool:
    """Return whether 2 and 5 are the only prime factors."""
    twos = denominator & -denominator
    denominator //= twos
    while denominator % 5 == 0:
        denominator //= 5
    return denominator == 1


def _in_digits(text: str) -> Fraction | None:
    prefix = _PREFIX.match(text)
    negative = False
    if prefix:
        negative = prefix[1] == "-"
        text = text[prefix.end() :]
    match = _NUMBER.match(text)
    if match is None or match.end() > 2 * MAX_DIGITS:
        return None
    value = _value(match)
    if value is None:
        return None
    if match["scale"]:
        value *= _SCALES[match["scale"].lower()]
    elif match["kilo"]:
        value *= 1000
    tail = text[match.end() :]
    extra = _AND_A_PART.match(tail)
    if extra:
        value += Fraction(1, _PARTS[extra[1].lower()])
        tail = tail[extra.end() :]
    if not _is_unit(tail):
        return None
    return -value if negative != (match["sign"] == "-") else value


def _value(match: re.Match[str]) -> Fraction | None:
    """Return the unsigned value of a `_NUMBER` match, or None if it is out of bounds."""
    if match["whole"]:
        of = int(match["of"])
        return int(match["whole"]) + Fraction(int(match["part"]), of) if of else None
    if match["base"]:
        base, power = int(match["base"]), int(match["power"])
        fits = abs(power) * len(match["base"]) <= MAX_EXPONENT and (base or power >= 0)
        return Fraction(base) ** power if fits else None
    if match["numerator"]:
        above, below = _decimal(match["numerator"]), _decimal(match["denominator"])
        return above / below if above is not None and below else None
    value = _decimal(match["decimal"])
    exponent = int(match["exponent"] or match["ten"] or 0)
    if value is None or abs(exponent) > MAX_EXPONENT:
        return None
    return value * Fraction(10) ** exponent if exponent else value


def _decimal(written: str) -> Fraction | None:
    """Return the value of digits with separators that match `_DECIMAL`."""
    if len(written) > MAX_DIGITS:
        return None
    if "," in written or " " in written or written.count(".") > 1:
        head, point, tail = written.rpartition(",")
        if point and len(tail) <= 2 and "." not in tail:  # a decimal comma
            written = head.replace(".", "") + "." + tail
        elif written.count(".") > 1:
            written = written.replace(".", "")
        else:
            written = written.replace(",", "").replace(" ", "")
    return Fraction(int(written)) if written.isdigit() else Fraction(Decimal(written))


def _is_unit(tail: str) -> bool:
    """Return whether the text after a number can be its unit: words, `km/h`, `m^2`, `%`, a parenthesis."""
    if not tail:
        return True
    if _NOT_A_UNIT.match(tail):
        return False
    parenthesis = tail.find(" (")
    if parenthesis >= 0:
        tail = tail[:parenthesis]
    return not (_VERB.search(tail) or _MATHEMATICS.search(_POWER_OF_UNIT.sub("", tail)))


def _in_words(text: str) -> Fraction | None:
    """Return the value of English number words: cardinals below 10^15, simple fractions, `point`, `a dozen`."""
    first = _WORD.match(text)
    if first is None or first[1].lower() not in _FIRST_WORDS:
        return None
    words = _Words(text)
    negative = words.take("minus", "negative") is not None
    value = words.fraction_or_cardinal()
    if value is None or not words.at_unit():
        return None
    return -value if negative else value


class _Words:
    """A cursor over the words of a number."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.spans = [(match[1].lower(), match.end()) for match in _WORD.finditer(text, 0, 200)]
        self.index = 0
        self.fraction = False

    def peek(self, ahead: int = 0) -> str:
        at = self.index + ahead
        return self.spans[at][0] if at < len(self.spans) else ""

    def take(self, *words: str) -> str | None:
        word = self.peek()
        if word not in words:
            return None
        self.index += 1
        return word

    def at_unit(self) -> bool:
        """Return whether the rest can be a unit and has no further number words."""
        if any(word in _NUMBER_WORDS for word, _ in self.spans[self.index :]):
            return False
        if self.peek() == "of" and not self.fraction:  # "one of the boys"
            return False
        return _is_unit(self.text[self.spans[self.index - 1][1] :])

    def fraction_or_cardinal(self) -> Fraction | None:
        if self.take("half"):
            if self.take("a"):
                return Fraction(6) if self.take("dozen") else None
            self.fraction = True
            return Fraction(1, 2)
        if self.peek() in ("a", "an"):
            following = self.peek(1)
            if following == "dozen":
                self.index += 2
                return Fraction(12)
            if following not in _SCALES and following not in _PARTS:
                return None
        count = self.cardinal()
        if count is None:
            return None
        value = Fraction(count)
        if self.peek() in _PARTS:
            self.fraction = True
            return value / _PARTS[self._next()]
        if self.take("point"):
            digits = ""
            while self.peek() in _ONES and _ONES[self.peek()] < 10:
                digits += str(_ONES[self._next()])
            return value + Fraction(int(digits), 10 ** len(digits)) if digits else None
        if self.peek() == "and" and self.peek(2) in _PARTS:
            self.index += 1
            part = self.cardinal()
            return value + Fraction(part, _PARTS[self._next()]) if part is not None else None
        return value

    def cardinal(self) -> int | None:
        """Return a whole number in words, where `a` means one; None if there is none here."""
        total, current = 0, 1 if self.take("a", "an") else None
        room = 10**18
        below = 0 if current else 1000
        start = self.index
        while True:
            word = self.peek()
            if word == "and" and self.index > start and below == 100 and self.peek(1) in _CARDINALS:
                if self.peek(2) in _PARTS:  # "a hundred and three quarters"
                    break
                word = self.peek(1)
                self.index += 1
            if word in _ONES and (below == 1000 or 0 < _ONES[word] < below):
                current = (current or 0) + _ONES[word]
                below = 0
            elif word in _TENS and below >= 100:
                current = (current or 0) + _TENS[word]
                below = 10
            elif word == "hundred" and current and current < 100:
                current, below = current * 100, 100
            elif word in _SCALES and word != "hundred" and current and _SCALES[word] < room:
                total, current, room = total + current * _SCALES[word], None, _SCALES[word]
                below = 100
            else:
                break
            self.index += 1
        if current is None and not total:
            return None
        return total + (current or 0)

    def _next(self) -> str:
        word = self.peek()
        self.index += 1
        return word
