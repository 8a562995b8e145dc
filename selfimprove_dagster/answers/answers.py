"""Extract the answer from a model's free text, for self-consistency voting.

Source: Wang et al. 2022 (arXiv 2203.11171) §2 parses the answer that follows "The answer is" in each sampled
path and votes over the parsed answers; Huang et al. 2022 (arXiv 2210.11610) §3.1 does the same. Models use
many other phrases. This module reads, in order:

1. **A statement.** `The answer is …` and variants (is, would be, equals, `:`), `A: …` and `#### …` lines, an
   answer under its own heading or in a tag, `\\boxed{…}`, `The final result is …`, `… is the right answer`,
   `option D is correct`. The last one with a number, option, truth value, date, time or mathematics wins, so a
   self-correction ("wait, … the answer is 7") counts and the earlier answer does not. If no statement has one
   of these, the last one with a few plain words counts. Questions ("is the answer 5?"), negations, hypotheses
   ("if the answer is 5") and other answers ("the third answer is 5") are not statements. Later lines that open
   another question (`Q: …`, written by a base model that does not stop) are cut off.
2. **A retraction** ("wait", "that is wrong", "let me recompute") after the last statement voids it and all
   before it, unless the text then confirms it; only the text after the statement is then read, by rule 4.
3. **A direct answer**: the whole text is one short line that is an answer; or it opens with "Yes," or "No,"; or
   its last line is `Total: …` with a number.
4. **A conclusion**: the final sentence is an equation (its right-hand side is taken), or opens with so,
   therefore, thus, … and has exactly one number. A full stop, word or line end must follow the number, or a
   text truncated at the token limit would vote with half a number.

Otherwise the text states no answer and the result is None, which is not a vote. The last number of a text is
never used by itself, since truncated texts would vote with it.

What a model thinks between marks such as `<think>` and `</think>` is not read, and thoughts that do not end are
followed by no answer. What comes after a mark for the end of a turn, such as `<|im_end|>`, is not read either.

Only the last 16,000 characters are read, and every pattern is bounded, so the time is linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import polars as pl

from selfimprove_dagster.answers.canonical import (
    MAX_ANSWER,
    canonical_answer,
    form_of,
    is_formula,
    plain_characters,
    plain_factorials,
    plain_latex,
    plain_markdown,
    quantity_form,
    tidy,
    typed_form,
)
from selfimprove_dagster.answers.expressions import Form
from selfimprove_dagster.answers.languages import DEFAULT, Conventions
from selfimprove_dagster.answers.numerals import number_form

VERSION = "2"
"""Version of the rules. Exams record it, so that answers that were read by others are not compared."""


WINDOW = 16_000
"""Number of characters at the end of a text that are read."""


_CANDIDATE = 160
"""Maximum length of a stated answer."""


_RUN_ON_QUESTIONS = 5
"""Maximum number of question labels at which a cut is tried, which bounds the work."""


# Patterns are matched against lower-cased text and start with a literal if possible, which makes scanning a text
# for the rare match cheap.
_LINK = (
    r"(?:\s*(?:[:=]|->)"
    r"|\s+(?:is|was|would be|will be|should be|must be|has to be|comes out to|comes to|equals|becomes)\b)"
    r"(?:\s*(?:[:=]|(?:therefore|thus|then|indeed|simply|just|now|clearly|hence|obviously|probably|likely"
    r"|also|still|given by|equal to)\b,?))*\s*"
)


_ANSWER = re.compile(r"answer(?:\s+(?:to|for|of|here|in)\b[^\n.:?=]{0,80}?)?" + _LINK)


_TAGGED = re.compile(r'answer(?:"\s*:\s*"?|>)\s*([^"<}\n]{1,160})')  # <answer>18</answer>, {"answer": "18"}


_FINAL = re.compile(r"final\s+(?:result|value|total|amount|solution|number|count|cost|price|output)" + _LINK)


_OPENS_SENTENCE = re.compile(
    r"(?:\n|[.!:]\s)[ \t#]*(?:(?:so|thus|therefore|hence),?\s+)?(?:the\s+|my\s+|our\s+)?$"
)


_OTHER_ANSWER = re.compile(
    r"\b(?:first|second|third|fourth|next|previous|other|another|each|wrong|incorrect|initial|his|her|their"
    r"|\w+'s)\s+$"
)


_HEADING = re.compile(r"answer[ \t]*\n\s*")


_OPENS_LINE = re.compile(r"\n[ \t#]*(?:the |my )?(?:final |correct )?$")


_LABEL = re.compile(r"\n[ \t]*(?:a|ans)[ \t]*:[ \t]*")


_BOX = re.compile(
    r"\\(?:f?boxed|fbox|framebox)(?![a-z])\s*(?:\{|([-+]?(?:\d+(?:\.\d+)?|[A-Za-z](?![A-Za-z])|\\[a-z]+(?:\{[^{}]{0,80}\}){1,2})))"
)


_HASHES = re.compile(r"####[ \t]*(?=[^\s#])")


_REVERSED = re.compile(
    r"(?<![\w.,$/-])([-+]?[$£€¥₹]?[-+]?\.?\d[\d.,/]*(?: ?%| [a-z]{1,20})?|\([a-e]\)|[a-e])"
    r"\s+is\s+(?:the|my|our)\s+(?:(?:final|correct|right|best)\s+)?$"
)


_OPTIONS = [
    re.compile(r"(?:option|choice)\s+[(\[]?([a-e])\b[)\]]?,?\s+(?:is|would be|must be)\b(?! not| in| wr)"),
    re.compile(r"(?:option|choice)(?:\s+is|\s*:)\s*(?:option\s+)?[(\[]?([a-e])\b"),
    re.compile(r"[(\[]([a-e])[)\]]\s+is\s+(?:the\s+)?(?:correct|right|best)"),
    re.compile(r"(?:choose|chose|pick|select|go with|going with|is|so|thus|hence|therefore),?\s+"
               r"(?:option|choice|answer)\s+[(\[]?([a-e])\b(?! is)"),
]  # fmt: skip


_ANNOTATION = re.compile(r"<<[^<>\n]{0,200}>>")


_NEXT_QUESTION = re.compile(
    r"\n[ \t#*]*(?:q|question|problem|example|human|user|instruction|exercise)[ \t]*\d{0,4}[ \t]*[:.]"
)


_END = re.compile(r"\n|[.!?](?=[\s\"')\]*]|$)|[.?](?=\$)|;(?!\s?[-$\d(\\])")


_TITLE = re.compile(
    r"\b(?:[Rr]s|RS|[Aa]pprox|[Dd]r|[Mm]rs?|Ms|Prof|Sts?|Mt|Ft|Gen|Col|Capt|Sgt|Lt|Sen|Rep|Gov|Rev|Hon|vs|[Ff]ig"
    r"|[Ee]q)$"
)
"""Abbreviations that something follows."""


_STREET = re.compile(r"[A-Z][a-z]+ [A-Z][a-z]+$")
"""A name that ends in an abbreviation, such as Main St."""


_NUMBERED = re.compile(r"\b(?:N[or]s?)$")


_INITIAL = re.compile(r"(?:^|[\s.])(?:[A-Z]\.\s?)*[A-Z]$")


_NAME = re.compile(r"\s?(?:[A-Z]\.|[A-Z][a-z'-]+(?:\s[A-Z][a-z'-]+)*\s*(?:[.,;!\n]|$))")


_OF_TOTAL = re.compile(
    r"\n[ \t]*(?:[a-z' ]{0,30}\b)?(?:total|sum|result|solution|overall|altogether)\b[a-z' ]{0,30}[:=][ \t]*(?=\S)"
)


_THOUGHTS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("[think]", "[/think]"),
    ("◁think▷", "◁/think▷"),
    ("<|begin_of_thought|>", "<|end_of_thought|>"),
    ("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
)
"""Marks around thoughts, in lower case, as models of several families write them."""


_END_OF_TURN = re.compile(
    r"<\|(?:im_end|eot_id|eom_id|eot|endoftext|end_of_text|end|return|user|eos)\|>|<｜end▁of▁sentence｜>"
    r"|</s>|<eos>|<end_of_turn>|<end_of_utterance>",
    re.IGNORECASE,
)


_MARK = re.compile(
    r"<\|(?:im_start|start|start_header_id)\|>\s?(?:assistant)?|<[|｜][^|｜<>\n]{1,40}[|｜]>|<s>|<bos>|<pad>|<start_of_turn>(?:model)?|\[/INST\]"
)


_CLAUSE = re.compile(
    r",(?!\s?\d)|\s(?:because|since|which|where|as|so|but|not|if|when|after|instead|rather)\b|\s\(|\s--"
)


_HYPOTHESIS = re.compile(r"\b(?:if|whether|suppose|unless|assuming|check that)\b[^,.:\n]*$")


_RETRACTION = re.compile(
    # Not a bare "wrong": "The answer is (B). (A) is wrong because …" explains and retracts nothing.
    r"\bwait(?:\s*[,.!:;-]| (?:that|no|let|but|this|i|a (?:minute|second|moment))\b)"
    r"|\b(?:hold on|hmm+|oops|correction:|actually,|sorry|scratch that|try again|i was wrong|my mistake)"
    r"|\b(?:made|is|was) an? (?:\w+ )?(?:mistake|error)\b"
    r"|\b(?:that|this|it|which|answer)(?:'s| is| was| seems| looks| must be| can't be) (?:\w+ )?"
    r"(?:wrong|incorrect|not correct|not right|not possible|impossible)"
    r"|\b(?:let me|let's|i'll) (?:re(?:do|calc|comp|think|cons|exam|try|work)|start over|try)"
)


_CONFIRMATION = re.compile(r"(?<!not )(?<!n't )\b(?:correct|right|consistent|checks out|confirm|matches)")


_CONCLUSION = re.compile(
    r"(?:so|therefore|thus|hence|in total|altogether|in conclusion|consequently|finally|overall"
    r"|this means|that means|which means)\b,?\s*"
)


_DENIAL = re.compile(r"\bnot?\b|n't\b|\?|<<|\bcannot\b")


_ONE_NUMBER = re.compile(r"[-+]?[$£€¥₹]?[-+]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:\s?/\s?\d+)?")


_RIGHT_SIDE = re.compile(
    r"\s(?:for|of|in|on|at|so|and|to|left|because|which|that|from|with|by|each|since"
    r"|is|are|was|were|has|have|had|will)\b|,\s"
)


_SENTENCES = re.compile(r"(?<=[.!?])\s+")


_BOUNDARY = re.compile(r"[.!?][\"'*)\]}]*(?=\s)|(?=\n)")
"""End of a sentence or of a line."""


_CLOSERS = re.compile(r"(?:\s*(?:\\\]|\\\)|\$\$?|\*\*|```|</\w{1,20}>))+")
"""The end of the formula, the emphasis or the tag that contains an answer."""


_OPENING_TRUTH = re.compile(r"\s*(?:so|therefore|thus|hence)?,?\s*(yes|no)\s*(?:[,.!:;]|$)(?!\s?wait)")


_ARITHMETIC = re.compile(r"\d.*[-+*/=<>^]|[-+*/=<>^].*\d|\d[eE][-+]?\d|\d{40}")


_SLASHED_DATE = re.compile(r"\s*\d{1,2}/\d{1,2}/\d{2,4}\s*")


_VERBS = frozenset(("is", "are", "was", "were", "has", "have", "had", "will", "can", "needs", "gets", "pays"))
"""Words of a sentence of reasoning, which may also follow "Answer:"."""


_EMPTY_WORDS = frozenset(
    {
        "not", "that", "because", "obtained", "found", "given", "calculated", "computed", "derived",
        "determined", "based", "as", "below", "above", "in", "by", "to", "if", "when", "wrong", "correct",
        "incorrect", "right", "helpful", "clear", "obvious", "unclear", "unknown", "unsure", "i", "we", "you",
        "it", "what", "your", "answer", "number", "value", "blank", "there", "this", "these", "here", "n/a",
        "none", "still", "therefore", "also", "either", "let", "let's", "first", "she", "he", "they", "step",
        "each", "since", "so", "please", "see",
    }
)  # fmt: skip
"""First words after "the answer is" that do not start an answer."""


class _Statement(NamedTuple):
    start: int
    end: int
    candidate: str
    typed_only: bool
    whole: bool = False
    """The candidate is the whole answer, as in a box, so no clause may follow it."""


class Reading(NamedTuple):
    """An answer in canonical form, and what decided on it."""

    answer: str
    rule: str
    """Where the answer was found and the kind of answer it is, such as `box: expression`."""


def extract_answer(text: str, conventions: Conventions = DEFAULT) -> str | None:
    """Return the canonical form of the answer that `text` states, or None if it states none.

    >>> extract_answer("She sold 48 / 2 = 24 clips in May. The answer is $24.00.")
    '24'
    >>> extract_answer("Natalia sold 48 / 2 = 24 clips, so in all she sold 48 +") is None
    True
    """
    reading = read_answer(text, conventions)
    return None if reading is None else reading.answer


def read_answer(text: str, conventions: Conventions = DEFAULT) -> Reading | None:
    """Return the answer that `text` states with the rule that read it, or None if it states none."""
    said = _after_thoughts(text, conventions)
    if said is None:
        return None
    text = _prepared(said[: _turn_end(said)], conventions)
    complete = text.endswith("\n")
    text = "\n" + text.strip()  # so that every line follows a line end
    lowered = text.lower()
    for question in _first_matches(_NEXT_QUESTION, lowered):
        cut = question.start()
        reading = _read(text[:cut], lowered[:cut], True) if cut else None
        if reading is not None:
            return reading
    return _read(text, lowered, complete)


def true_answer(raw: str, conventions: Conventions = DEFAULT) -> str | None:
    """Return the canonical form of a ground truth, which is the answer alone or a worked solution that states it.

    A text with a box is a solution: if the box cannot be read, there is no answer.
    """
    stated = extract_answer(raw, conventions)
    return stated if stated is not None or _BOX.search(raw) else canonical_answer(raw, conventions)


def _after_thoughts(text: str, conventions: Conventions) -> str | None:
    """Return what follows the last thoughts of a text, or None if thoughts do not end."""
    lowered = text.lower()
    if len(lowered) != len(text):  # a few letters are longer in lower case
        lowered = text
    marks = [
        (opening.lower(), closing.lower())
        for opening, closing in (*_THOUGHTS, *conventions.thoughts)
        if opening.lower() in lowered or closing.lower() in lowered
    ]
    start = 0
    for _, closing in marks:
        if (at := lowered.rfind(closing)) >= 0:
            start = max(start, at + len(closing))
    return None if any(opening in lowered[start:] for opening, _ in marks) else text[start:]


def _turn_end(text: str) -> int:
    """Return where the first turn of a text ends: at a mark that follows something said."""
    if "<" not in text:
        return len(text)
    for mark in _END_OF_TURN.finditer(text):
        if _MARK.sub("", _END_OF_TURN.sub("", text[: mark.start()])).strip():
            return mark.start()
    return len(text)


def _prepared(text: str, conventions: Conventions) -> str:
    """Return the end of a text in the characters, the markup and the language that the patterns are written for."""
    text = plain_characters(text[-WINDOW:])
    if "<" in text or "[/" in text:
        text = _MARK.sub("", _END_OF_TURN.sub("", text))
    if "<<" in text:
        text = _ANNOTATION.sub("", text)
    text = plain_markdown(text)
    if "\\" in text:
        text = _mark_boxes(text)
    text = plain_latex(text)
    return conventions.statements_in_english(text)


def through_answer(text: str, conventions: Conventions = DEFAULT) -> str:
    """Return the text up to where `extract_answer` stops: the sentence or line that states the answer.

    Thoughts before the answer are kept. A text without a statement is cut only before a line that opens another
    question; one without an answer is returned whole.

    >>> through_answer("So 4 + 5 = 9. The answer is 9. I hope this helps!")
    'So 4 + 5 = 9. The answer is 9.'
    """
    answer = extract_answer(text, conventions)
    if answer is None:
        return text
    said = _after_thoughts(text, conventions) or ""
    begin = len(text) - len(said)
    text = text[: begin + _turn_end(said)]
    for question in _first_matches(_NEXT_QUESTION, text.lower()):
        if extract_answer(text[: question.start()], conventions) == answer:
            text = text[: question.start()]
            break
    end = len(text)
    for boundary in reversed([match.end() for match in _BOUNDARY.finditer(text, begin)]):
        if _states(text[boundary:], conventions):
            break
        if extract_answer(text[:boundary], conventions) == answer and _states(
            text[begin:boundary], conventions
        ):
            end = boundary
    closers = _CLOSERS.match(text, end)
    return text[: closers.end() if closers else end]


def _states(text: str, conventions: Conventions) -> bool:
    """Return whether a part of a text states an answer."""
    text = "\n" + _prepared(text, conventions).strip()
    statements = _statements(text, text.lower())
    return any(_typed(one) is not None or _words(one) is not None for one in statements)


def extract_answers(texts: pl.Series, conventions: Conventions = DEFAULT) -> pl.Series:
    """Apply `extract_answer` to a string column. Each distinct text is read once; null gives null."""
    answers = [reading and reading.answer for reading in read_answers(texts, conventions)]
    return pl.Series(texts.name, answers, dtype=pl.String)


def read_answers(texts: pl.Series, conventions: Conventions = DEFAULT) -> list[Reading | None]:
    """Apply `read_answer` to a string column. Each distinct text is read once; null gives None."""
    if texts.dtype not in (pl.String, pl.Null):
        raise TypeError(f"read_answers needs a string column, but {texts.name!r} is {texts.dtype}")
    read: dict[str | None, Reading | None] = {None: None}
    for text in texts.to_list():
        if text not in read:
            read[text] = read_answer(text, conventions)
    return [read[text] for text in texts.to_list()]


def _first_matches(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    for count, match in enumerate(pattern.finditer(text), 1):
        yield match
        if count == _RUN_ON_QUESTIONS:
            return


def _mark_boxes(text: str) -> str:
    """Replace each closed `\\boxed{…}` by `\\x01…\\x02`; control characters have been dropped before."""
    pieces: list[str] = []
    position = 0
    for box in _BOX.finditer(text):
        if box.start() < position:
            continue  # a box within a box
        if box[1]:
            pieces += [text[position : box.start()], "\x01", box[1], "\x02"]
            position = box.end()
            continue
        depth, index, stop = 1, box.end(), min(len(text), box.end() + MAX_ANSWER)
        while index < stop and depth:
            depth += (text[index] == "{") - (text[index] == "}")
            index += 1
        if depth == 0:
            content = text[box.end() : index - 1].replace("\n", " ")
            pieces += [text[position : box.start()], "\x01", plain_factorials(_unboxed(content)), "\x02"]
            position = index
    return "".join(pieces) + text[position:]


def _unboxed(content: str) -> str:
    """Return the content of a box within a box."""
    inner = _BOX.match(content.strip())
    if inner and not inner[1] and content.rstrip().endswith("}"):
        return _unboxed(content.strip()[inner.end() : -1])
    return content


def _read(text: str, lowered: str, complete: bool) -> Reading | None:
    """Return the answer of a prepared text; `complete`: the text is known to end after its last character."""
    statements = sorted(_statements(text, lowered))
    found = next(((one, form) for one in reversed(statements) if (form := _typed(one)) is not None), None)
    found = found or next(
        ((one, form) for one in reversed(statements) if (form := _words(one)) is not None), None
    )
    if found is None:
        direct = _direct(text.strip(), lowered) or _total(text, lowered)
        return _reading("direct answer", direct) or _reading(
            "conclusion", _conclusion(text.strip(), complete)
        )
    last, form = found
    after = lowered[last.end :]
    retraction = _RETRACTION.search(after) if after else None
    if retraction is None or _CONFIRMATION.search(after, retraction.end()):
        return _reading("box" if text[last.start] == "\x01" else "statement", form)
    return _reading("conclusion", _conclusion(text[last.end :].strip(), complete))


def _reading(place: str, form: Form | None) -> Reading | None:
    return None if form is None else Reading(form.text, f"{place}: {form.kind}")


def _statements(text: str, lowered: str) -> Iterator[_Statement]:
    """Yield everything that has the form of a statement of the answer."""
    if "answer" in lowered:
        position = lowered.find("answer")
        while position >= 0:
            link = _ANSWER.match(lowered, position)
            heading = None if link else _HEADING.match(lowered, position)
            if link:
                if not _OTHER_ANSWER.search(lowered, max(0, position - 30), position):
                    yield from _stated(text, lowered, position, link.end())
            elif heading and _OPENS_LINE.search(lowered, max(0, position - 30), position):
                yield from _stated(text, lowered, position, heading.end())
            elif (tagged := _TAGGED.match(lowered, position)) and lowered[position - 1] != "/":
                yield _Statement(position, tagged.end(), text[slice(*tagged.span(1))] + "\n", False, True)
            else:
                before = _REVERSED.search(lowered, max(0, position - 80), position)
                if before:
                    yield _Statement(before.start(), position + 6, text[before.start() : before.end(1)], True)
            position = lowered.find("answer", position + 6)
    if "final" in lowered:
        for link in _FINAL.finditer(lowered):
            if _OPENS_SENTENCE.search(lowered, max(0, link.start() - 20), link.start()):
                yield from _stated(text, lowered, link.start(), link.end(), typed_only=True)
    if "####" in lowered:
        for hashes in _HASHES.finditer(lowered):
            line_end = lowered.find("\n", hashes.end())
            line_end = len(text) if line_end < 0 else line_end
            # The answer must be the whole line: "#### 3. Add them up" is a heading.
            if line_end - hashes.end() <= _CANDIDATE:
                yield _Statement(hashes.start(), line_end, text[hashes.end() : line_end] + "\n", True, True)
    if ("a:" in lowered or "ans:" in lowered) and "\nb:" not in lowered and "\nb)" not in lowered:
        for label in _LABEL.finditer(lowered):
            line_end = lowered.find("\n", label.end())
            line_end = len(text) if line_end < 0 else line_end
            line = text[label.end() : min(line_end, label.end() + _CANDIDATE)]
            # Only few words or a marked option count, since reasoning may also follow "A:".
            if line.count(" ") < 5 or line.startswith("("):
                yield _Statement(label.start(), line_end, line + "\n", True)
    if "\x01" in text:
        for box in re.finditer("\x01([^\x01\x02]*)\x02", text):
            yield _Statement(box.start(), box.end(), box[1] + "\n", False, True)
    if "option" in lowered or "choice" in lowered or "correct" in lowered:
        for pattern in _OPTIONS:
            for option in pattern.finditer(lowered):
                at = option.start(1)
                if text[at].isupper() or lowered[at - 1] in "([":
                    yield _Statement(option.start(), option.end(), text[at].upper(), True)


def _stated(
    text: str, lowered: str, start: int, begin: int, *, typed_only: bool = False
) -> Iterator[_Statement]:
    """Return the statement whose answer starts at `begin`, unless it is a question or a hypothesis."""
    end = _sentence_end(text, begin)
    stop = end.start() if end else len(text)
    if stop > begin + _CANDIDATE:  # without an end, at most a clause can be trusted
        clause = _clause(text[begin : begin + _CANDIDATE])
        stop = begin + clause if clause else begin
    if begin == stop or (end and end[0] == "?"):
        return
    if lowered[start] != "\n" and _HYPOTHESIS.search(lowered, max(0, start - 60), start):
        return
    yield _Statement(start, stop, text[begin:stop], typed_only)


def _sentence_end(text: str, begin: int) -> re.Match[str] | None:
    """Return the end of the sentence or line in which an answer starts at `begin`; not the point of an abbreviation."""
    for end in _END.finditer(text, begin, begin + _CANDIDATE):
        if end[0] != "." or not _abbreviates(
            text[max(0, begin - 1) : end.start()], text[end.end() : end.end() + 60]
        ):
            return end
    return None


def _abbreviates(before: str, after: str) -> bool:
    """Return whether a point between two texts belongs to an abbreviation or to the initials of a name."""
    if _TITLE.search(before):
        return bool(after.strip()) and not _STREET.search(before)
    if _NUMBERED.search(before):
        return after.lstrip()[:1].isdigit()
    initial = _INITIAL.search(before)
    if initial is None or not _NAME.match(after):
        return False
    # "The answer is B. Apples": one letter alone is an option up to E.
    return before[-1] > "E" or "." in initial[0] or re.match(r"\s?[A-Z]\.", after) is not None


def _clause(candidate: str) -> int:
    """Return where a clause that is no part of the answer starts, outside of brackets and formulas; 0 for none."""
    for found in _CLAUSE.finditer(candidate):
        before = candidate[: found.start()]
        formula = before.count("$") % 2 and "$" in candidate[found.end() :]
        if not formula and sum(map(before.count, "([{")) <= sum(map(before.count, ")]}")):
            return found.start()
    return 0


_LEADING_FORMULA = re.compile(r"\s*\$([^$]+)\$(?![\d$])")


@lru_cache(maxsize=1 << 16)
def _typed_candidate(candidate: str, whole: bool) -> Form | None:
    """Return the form of more than text in `candidate`, followed by at most a clause, or after a formula by words."""
    formula = whole or is_formula(candidate)
    form = typed_form(tidy(plain_factorials(candidate) if formula else candidate), formula)
    if form is None and not candidate.endswith("\n"):
        clause = _clause(candidate)
        if clause:
            form = typed_form(tidy(candidate[:clause]), is_formula(candidate[:clause]))
        if form is None and (leading := _LEADING_FORMULA.match(candidate)):
            form = typed_form(tidy(plain_factorials(leading[1])), True)
    return form


def _typed(statement: _Statement) -> Form | None:
    return _typed_candidate(statement.candidate, statement.whole)


def _words(statement: _Statement) -> Form | None:
    """Return the few plain words that a statement gives as its answer."""
    if statement.typed_only:
        return None
    candidate = statement.candidate
    if statement.whole:
        return None if _is_blank(candidate) else form_of(candidate, formula=True)
    clause = _clause(candidate)
    if clause and not any(map(str.isdigit, candidate[clause:])):
        candidate = candidate[:clause]
    words = candidate.lower().split()
    if not _VERBS.isdisjoint(words):
        return None
    if not words or len(words) > 8 or _is_blank(candidate):
        return None
    if _ARITHMETIC.search(candidate) and not _SLASHED_DATE.fullmatch(candidate):
        return None
    return form_of(candidate)


def _is_blank(candidate: str) -> bool:
    """Return whether the first word of a candidate starts no answer."""
    first = candidate.split(maxsplit=1)[:1]
    return bool(first) and first[0].lower().strip("[]<>(){}.,*\"'") in _EMPTY_WORDS


def _direct(text: str, lowered: str) -> Form | None:
    """Return the answer of a text that is only an answer, or that starts with yes or no."""
    labelled = _LABEL.match(lowered)  # "A: Let's think" is not option A
    alone = "\n" not in text and len(text) <= 60 and text.count(" ") < 5 and not text.endswith("?")
    if alone and not labelled:
        form = _typed_candidate(text, False)
        if form is not None:
            return form
    opening = _OPENING_TRUTH.match(lowered)
    return Form(opening[1], "truth value") if opening else None


def _total(text: str, lowered: str) -> Form | None:
    """Return the number in a last line such as `Total cost: $18`."""
    label = _OF_TOTAL.match(lowered, lowered.rfind("\n"))
    number = number_form(tidy(text[label.end() :])) if label else None
    return None if number is None else Form(number, "number")


def _conclusion(text: str, complete: bool) -> Form | None:
    """Return the number in a final sentence that is an equation or a conclusion and is complete."""
    if not text or (text[-1].isdigit() and not complete):
        return None
    sentence = _SENTENCES.split(text[-400:].rsplit("\n", 1)[-1])[-1]
    if _DENIAL.search(sentence.lower()):
        truth = _OPENING_TRUTH.match(sentence.lower())
        return Form(truth[1], "truth value") if truth and sentence[-1] != "?" else None
    number = _concluded(sentence)
    return None if number is None else Form(number, "number")


def _concluded(sentence: str) -> str | None:
    opening = _CONCLUSION.match(sentence.lower())
    _, equals, right = sentence.rpartition("=")
    if equals:
        right = tidy(right)
        found = _RIGHT_SIDE.search(right)
        return quantity_form(right) or (quantity_form(right[: found.start()]) if found else None)
    numbers = _ONE_NUMBER.findall(sentence)
    if opening and len(numbers) == 1:
        at = sentence.index(numbers[0])
        rest = tidy(sentence[at:])
        return number_form(rest) or number_form(numbers[0])
    return None
