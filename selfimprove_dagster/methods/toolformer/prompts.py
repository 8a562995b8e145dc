"""The prompt P(x) by which a model annotates a text (Schick et al., 2302.04761, section 2, appendix A.2)."""

from __future__ import annotations

from collections.abc import Iterable


def annotation_prompt(introduction: str, shots: Iterable[tuple[str, str]], text: str) -> str:
    """What the tool is for, texts with and without calls, and the text to annotate; ends in `Output:`.

    The completion is a space and the text, with calls.
    """
    shown = "".join(f"Input: {plain}\nOutput: {annotated}\n\n" for plain, annotated in shots)
    return f"{introduction.strip()}\n\n{shown}Input: {text}\nOutput:"
