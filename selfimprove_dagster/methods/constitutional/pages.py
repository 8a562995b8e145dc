from __future__ import annotations

PAGES = None
CARD = None
