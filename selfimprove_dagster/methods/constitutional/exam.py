from __future__ import annotations

EXAM = None
