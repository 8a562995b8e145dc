"""Parts of pages that show how a text was judged and rewritten."""

from __future__ import annotations

from pathlib import Path

CHAIN = Path(__file__).with_name("chain.html")
"""Shows `chain`: the steps from a first text to the last, each with `label, id, text, here`."""
