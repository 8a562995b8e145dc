from __future__ import annotations

EXPLAIN = None
WHAT_IF = None
