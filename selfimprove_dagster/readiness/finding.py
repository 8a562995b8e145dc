"""What is found before a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """A problem with which a run would fail, or, if `is_warning`, one with which it may fail or work badly.

    The text says what is wrong, where, and what to do about it. `may_pass`: it may end without anybody's doing.
    """

    text: str
    is_warning: bool = False
    may_pass: bool = False
