"""How varied the tasks of a pool are (Wang et al., 2212.10560, section 3.1 and figures 3 to 5).

The paper takes the root verb of an instruction and its first direct object from a dependency parser. Here no
parser is at hand: `verb_noun_pair` is a heuristic on English words and named so wherever it is shown. The
share of distinct n-grams is in `selfimprove_dagster.evaluation.diversity`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from itertools import takewhile


def _word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


VERBS = _word_set(
    """
    accept act add advise agree analyse analyze answer apply argue arrange ask assess assign assume
    brainstorm break build calculate capitalise capitalize categorise categorize change check choose cite
    clarify classify combine compare complete compose compute condense conjugate consider construct
    continue convert copy correct count create criticise criticize debug decide decode decline define
    delete demonstrate derive describe design detect determine develop discuss distinguish divide double
    draft edit elaborate eliminate encode estimate evaluate expand explain express extract fill find
    finish fix form formulate gather generate give group guess help highlight identify imagine improve
    infer insert interpret introduce invent join judge keep label let list locate lowercase make mark
    match merge mention modify multiply name negate note offer order organise organize outline output
    paraphrase pick place plan play predict prepare present print produce prompt proofread propose prove
    provide put quote rank rate read rearrange recommend reduce rename reorder repeat rephrase replace
    reply report respond restate retell return reverse review revise rewrite rhyme round say score select
    separate share shorten show simplify simulate sing solve sort specify spell split spot state subtract
    suggest sum summarise summarize switch take tell think transform translate transpose trim turn
    underline unscramble uppercase use verify visit vote weigh work write
    """
)
"""Verbs with which an instruction tells what to do."""


_NO_NOUN = _word_set(
    """
    a an the this that these those my your his her its our their some any each every all both no another
    other one two three four five six seven eight nine ten several many few more most following given
    provided whether which what who whom whose when where why how if as it them me us you him i we they
    he she is are was were be been can could should would will may might must do does did has have had not
    only just also then so very exactly out up down off
    """
)


_ENDS_PHRASE = _word_set(
    """
    about above after again against along among and around at because before below between but by during
    for from in inside into like near of on onto or over per now so than that through to toward towards
    under until using via which who with within without is are was were be can could should would will may
    might must if when where while whose as given
    """
)


_TOKEN = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*|[.,;:!?()]")


def verb_noun_pair(instruction: str) -> tuple[str, str] | None:
    """The first verb of a list and the last word of the first phrase after it that may hold a noun.

    ("write", "poem") for `Write a short poem about autumn.` None without such a verb or phrase. A heuristic
    for English: an adjective that ends its phrase, or a verb used as a noun, is taken for what it is not.
    """
    words = [word.lower() for word in _TOKEN.findall(instruction)]
    for place, verb in enumerate(words):
        if verb in VERBS and not (place and words[place - 1] in ("a", "an", "the", "of")):
            break
    else:
        return None
    for start in range(place + 1, len(words)):
        if words[start] in _NO_NOUN:
            continue
        phrase = list(takewhile(_in_phrase, words[start:]))
        return (verb, phrase[-1]) if phrase else None
    return None


def verb_noun_counts(instructions: Iterable[str]) -> Counter[tuple[str, str]]:
    """How often each pair of `verb_noun_pair` comes up; instructions without one are left out."""
    return Counter(pair for text in instructions if (pair := verb_noun_pair(text)) is not None)


def length_histogram(texts: Iterable[str], width: int = 5) -> list[tuple[int, int, int]]:
    """(first length, last length, texts) in words for each bin from 0 to that of the longest text."""
    bins = Counter(len(text.split()) // width for text in texts)
    return [(at * width, at * width + width - 1, bins[at]) for at in range(max(bins, default=-1) + 1)]


def _in_phrase(word: str) -> bool:
    return word[0].isalpha() and word not in _ENDS_PHRASE and word not in _NO_NOUN
