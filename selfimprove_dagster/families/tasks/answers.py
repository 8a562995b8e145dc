"""What chat models write around a task: a remark after it, and words for an empty field."""

from __future__ import annotations

import re

_CLOSING = re.compile(
    r"\n[ \t]*\n[ \t*_]*(?:(?:please |just )?let me know|i hope|hope (?:this|that|these)|feel free|is there anything|"
    r"would you like|do you want|(?:this|these|the above) (?:examples?|tasks?|is|are)\b).*\Z",
    re.IGNORECASE | re.DOTALL,
)


_NOTHING = re.compile(r"[\[(<*_]*(?:none|n/a|no ?input|no constraints?)[\])>*_.]*", re.IGNORECASE)


def without_remark(text: str) -> str:
    """Return the beginning of a text, up to a last paragraph that speaks to the reader: `Let me know if …`."""
    return _CLOSING.sub("", text)


def says_nothing(field: str) -> bool:
    """Return whether a field is said to be empty, in words such as `None` or `(no input)`."""
    return _NOTHING.fullmatch(field) is not None
