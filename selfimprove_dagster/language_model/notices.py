"""Warn about what an engine or a provider cannot do, once in a process, which opens the same model for each stage."""

from __future__ import annotations

import logging

_SAID: set[str] = set()


def warn_once(log: logging.Logger, line: str) -> None:
    """Log a warning unless it was logged before."""
    if line not in _SAID:
        _SAID.add(line)
        log.warning(line)
