"""Our reader of answers beside math-verify: verdicts and time, on recorded solutions and on what models write.

    python benchmarks/answers.py [--solutions ../shared/data/gsm8k/model_solutions.jsonl]

Each reader reads the ground truth and the solution, and says whether they agree. `ours` is `extract_answer` and
`answers_agree`; its forms of algebra come from math-verify in a process of its own. `math-verify` is `parse` and
`verify` alone, on the whole text, without a time limit. On the list, each text has the answer that is right.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from math_verify import parse, verify

from selfimprove_dagster.answers.answers import extract_answer, read_answer
from selfimprove_dagster.answers.canonical import answers_agree, canonical_answer

RESULTS = Path(__file__).parent / "results" / "answers.md"

SOLUTIONS = Path(__file__).parents[2] / "shared" / "data" / "gsm8k" / "model_solutions.jsonl"

LIST: tuple[tuple[str, str | None], ...] = (
    ("<think>Maybe the answer is 12. Let me check", None),
    ("So the answer is 12.\n</think>\n\n**18**", "18"),
    ("The answer is:\n$$12$$", "12"),
    (r"\boxed{(x, y)}", "(x, y)"),
    (r"\boxed{[2, \infty)}", r"[2, \infty)"),
    (r"\boxed{3+4i}", "3+4i"),
    (r"\boxed{x^2+3x}", "x^2+3x"),
    (r"\boxed{\left(1, 2\right)}", "(1,2)"),
    (r"\boxed{2\sqrt{3}}", r"2 \sqrt{3}"),
    (r"\boxed{\sqrt{12}}", r"2\sqrt{3}"),
    (r"\boxed{1,2}", r"\{1, 2\}"),
    (r"\boxed{5!}", "120"),
    (r"\fbox{7}", "7"),
    ("The answer is Rs. 500.", "500"),
    ("The answer is Dr. Smith.", "Dr. Smith"),
    ("The answer is No. 5.", "5"),
    ("The answer is J. K. Rowling.", "J. K. Rowling"),
    ("The answer is (A) and (B).", "(A) and (B)"),
    ("The answer is minus 5.", "-5"),
    ("The answer is $-$18.", "-18"),
    ("18<|im_end|>", "18"),
    ("Total: $18", "18"),
    ("The answer is 7.\nQ: Bob has 4 pens? He has 4.", "7"),
    (r"\boxed{\frac{1}{\sqrt 2}}", r"\frac{\sqrt 2}{2}"),
    (r"\boxed{\begin{pmatrix} 1 \\ 2 \end{pmatrix}}", r"\begin{bmatrix} 1 \\ 2 \end{bmatrix}"),
    ("Die Antwort ist 12.", "12"),
    ("The answer is twelve.", "12"),
    ("The answer is 5 pm.", "17:00"),
)


def ours(truth: str, text: str) -> bool:
    """Return whether our reader finds the truth in the text."""
    return answers_agree(extract_answer(text), extract_answer(truth) or canonical_answer(truth))


def alone(truth: str, text: str) -> bool:
    """Return whether math-verify finds the truth in the text."""
    gold = parse(truth, parsing_timeout=None) or parse(f"${truth}$", parsing_timeout=None)
    return verify(gold, parse(text, parsing_timeout=None), timeout_seconds=None)


def listed_ours(truth: str | None, text: str) -> bool:
    """Return whether our reader gives the right answer, or none where there is none."""
    read = extract_answer(text)
    return read is None if truth is None else answers_agree(read, canonical_answer(f"${truth}$"))


def listed_alone(truth: str | None, text: str) -> bool:
    """Return whether math-verify gives the right answer, or none where there is none."""
    if truth is None:
        return not parse(text, parsing_timeout=None)
    gold = parse(f"${truth}$", parsing_timeout=None)
    return verify(gold, parse(text, parsing_timeout=None), timeout_seconds=None)


def timed(judge: Callable[[str, str], bool], pairs: list[tuple[str, str]]) -> tuple[list[bool], float]:
    """Return the verdicts on all pairs, and the seconds that they took."""
    began = time.perf_counter()
    verdicts = [judge(truth, text) for truth, text in pairs]
    return verdicts, time.perf_counter() - began


def main() -> None:
    """Compare both readers and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--solutions", type=Path, default=SOLUTIONS)
    arguments = parser.parse_args()
    rows = [json.loads(line) for line in arguments.solutions.open()]
    recorded = [
        (row["ground_truth"], one["solution"], one["is_correct"])
        for row in rows
        for one in row.values()
        if isinstance(one, dict)
    ]
    pairs = [(truth, text) for truth, text, _ in recorded]
    alone(*pairs[0])  # loads SymPy
    lines = [
        "# Reading answers: ours and math-verify",
        "",
        f"`python benchmarks/answers.py`: {len(pairs):,} recorded solutions of GSM8K by four models, with the verdicts "
        "that are recorded with them.",
        "",
        "| reader | agrees with the recorded verdict | right called wrong | wrong called right | per solution |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, judge in (("ours", ours), ("math-verify alone", alone)):
        verdicts, seconds = timed(judge, pairs)
        errors = Counter(
            right for (_, _, right), said in zip(recorded, verdicts, strict=True) if said != right
        )
        same = len(pairs) - errors.total()
        lines.append(
            f"| {name} | {same:,} of {len(pairs):,} | {errors[True]} | {errors[False]} "
            f"| {seconds / len(pairs) * 1000:.2f} ms |"
        )
    rules = Counter(reading.rule if (reading := read_answer(text)) else "none" for _, text in pairs)
    lines += [
        "",
        "What decided in ours: "
        + ", ".join(f"{rule} {count:,}" for rule, count in rules.most_common())
        + ".",
    ]
    canonical_answer(r"$\sqrt{2}$")  # starts the process
    lines += [
        "",
        "Texts that are hard to read, with the right answer:",
        "",
        "| text | right | ours | rule | math-verify |",
    ]
    lines.append("|---|---|---|---|---|")
    for text, truth in LIST:
        reading = read_answer(text)
        shown = [text.replace("\n", "⏎").replace("|", r"\|"), truth or "none"]
        found = "✓" if listed_ours(truth, text) else f"`{reading and reading.answer}`"
        lines.append(
            f"| `{shown[0]}` | `{shown[1]}` | {found} | {reading.rule if reading else 'none'} "
            f"| {'✓' if listed_alone(truth, text) else '–'} |"
        )
    lines += [
        "",
        f"math-verify {version('math-verify')}, SymPy {version('sympy')}, Python {platform.python_version()}, "
        f"{platform.machine()}.",
    ]
    RESULTS.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
