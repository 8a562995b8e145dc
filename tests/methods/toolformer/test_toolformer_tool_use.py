"""Toolformer with a model: the embedded one against plain forward passes, a scripted one for the logic."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from kit.models import ByteModel

from selfimprove_dagster.conversation import Message, messages_of, stored
from selfimprove_dagster.embedded import BASE_MODEL, SEEDS
from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.language_model import open_language_model
from selfimprove_dagster.language_model.base import Generation, LanguageModel, Progress, SamplingParameters
from selfimprove_dagster.language_model.prompting import Prompting
from selfimprove_dagster.methods.toolformer import tool_use
from selfimprove_dagster.methods.toolformer.loss import Losses
from selfimprove_dagster.tools.calculator import Calculator
from selfimprove_dagster.tools.calendar import Calendar
from selfimprove_dagster.tools.calls import Call, PlacedCall, read_call, take_out
from selfimprove_dagster.tools.registry import open_tools
from selfimprove_dagster.tools.toolbox import Toolbox
from selfimprove_dagster.tools.writing import (
    MadeCall,
    Transcript,
    begun,
    generate_with_tools,
    opening_token,
    without_calls,
)

TEXTS = [json.loads(line)["question"] for line in SEEDS.read_text().splitlines()[:4]]


@pytest.fixture(scope="module")
def model() -> Iterator[LanguageModel]:
    opened = open_language_model(str(BASE_MODEL))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def log_probabilities() -> Callable[[Sequence[int]], Any]:
    """ln p of every next token after each token, by one plain forward pass in float64."""
    import torch
    from transformers import AutoModelForCausalLM

    plain = AutoModelForCausalLM.from_pretrained(BASE_MODEL).double().eval()

    def read(token_ids: Sequence[int]) -> Any:
        with torch.inference_mode():
            return plain(input_ids=torch.tensor([list(token_ids)])).logits[0].log_softmax(-1).numpy()

    return read


def placed(text: str, word: str, call: Call) -> PlacedCall:
    return PlacedCall(text.index(word), call)


# --- tokens and characters ---


@pytest.mark.parametrize("text", [*TEXTS, "Straße 東京 → 🦊 end", " two  spaces\n", ""])
def test_tokens_begin_at_characters_of_the_text(model: LanguageModel, text: str) -> None:
    ids = model.encode_continuation(text)
    starts = tool_use.token_starts(model, text, ids)
    assert len(starts) == len(ids)
    known = [start for start in starts if start is not None]
    assert known == sorted(set(known))
    for index, start in enumerate(starts):
        if start is not None:
            assert model.decode(ids[:index]) == text[:start]


def test_positions_that_cannot_be_told_are_left_out() -> None:
    class Folding(Scripted):
        """Its tokens come back without accents."""

        def decode(self, token_ids: Sequence[int]) -> str:
            return super().decode(token_ids).replace("é", "e")

    text = "abé" + "x" * 100
    starts = tool_use.token_starts(Folding(), text, Folding().encode(text))
    assert starts == [0, 1, 2, *[None] * 100]


def test_the_opening_token_is_one_token(model: LanguageModel) -> None:
    assert model.decode([opening_token(model)]).strip() == "["
    with pytest.raises(ModelError, match="no single token"):
        opening_token(Scripted(wide=True))


# --- sampling calls ---


def test_probabilities_of_an_opening_are_those_of_the_prefixes(
    model: LanguageModel, log_probabilities: Callable[[Sequence[int]], Any]
) -> None:
    """One forward a text gives what a forward a position would."""
    opening = opening_token(model)
    prompts = [f"Add calls.\nInput: {text}\nOutput:" for text in TEXTS]
    asked = [tool_use.Annotated(*pair, f" {pair[1]}") for pair in zip(prompts, TEXTS, strict=True)]
    found = tool_use.position_probabilities(model, asked, opening)
    for prompt, text, row in zip(prompts, TEXTS, found, strict=True):
        assert row.positions == sorted(set(row.positions)) and row.positions[0] == 0
        assert text.index(" ") in row.positions or text.index(" ") + 1 in row.positions
        for position in (row.positions[0], row.positions[7], row.positions[-1]):
            tokens = model.encode_continuation(f" {text}")
            read = [n for n in range(len(tokens)) if len(model.decode(tokens[:n])) <= max(1, position + 1)]
            before = [*model.encode(prompt), *tokens[: read[-1]]]
            expected = math.exp(log_probabilities(before)[-1][opening])
            assert row.probabilities[row.positions.index(position)] == pytest.approx(expected, rel=1e-3)


def test_positions_take_one_forward_pass_a_text() -> None:
    model = Scripted({"a": "b[", "ab": "[c"})
    texts = [tool_use.Annotated("Output:", text, f" {text}") for text in ("abab", "xa")]
    first, second = tool_use.position_probabilities(model, texts, OPENING)
    assert model.sequences == ["Output: aba", "Output: x"]
    assert (first.positions, first.probabilities) == ([0, 1, 2, 3], [0.0, 0.25, 0.5, 0.25])
    assert (second.positions, second.probabilities) == ([0, 1], [0.0, 0.0])


def test_a_call_is_sampled_after_the_opening_token(model: LanguageModel) -> None:
    opening = opening_token(model)
    text = TEXTS[0]
    asked, position = tool_use.Annotated("Output:", text, f" {text}"), text.index(" She")
    before = model.encode("Output:") + model.encode_continuation(f" {text[:position]}")
    ids = [*before, opening]
    assert tool_use.call_prompts(model, [(asked, position)], opening) == [(model.decode(ids), ids)]
    with pytest.raises(ValueError, match="no token of the text begins at its character 9999"):
        tool_use.call_prompts(model, [(asked, 9999)], opening)


def test_a_chat_model_opens_a_call_in_what_it_says() -> None:
    """The text follows the conversation without a space, and the prompt is the conversation so far."""
    model = Scripted({"a": "b["})
    model.prompting = Prompting(chat=True)
    text = tool_use.Annotated(stored([Message("user", "abab")]), "abab", "abab")
    (found,) = tool_use.position_probabilities(model, [text], OPENING)
    assert found.positions == [0, 1, 2, 3]
    ((asked, ids),) = tool_use.call_prompts(model, [(text, 2)], OPENING)
    assert messages_of(asked) == [("user", "abab"), ("assistant", "ab[")]
    assert ids == [*model.encode_prompts([text.prompt])[0], *model.encode_continuation("ab"), OPENING]


# --- scoring calls ---


def reference(
    model: LanguageModel,
    log_probabilities: Callable[[Sequence[int]], Any],
    text: str,
    item: PlacedCall,
) -> Losses:
    """The formula as it stands: a forward pass a prefix, z before the whole text, weights normalised."""
    weights = [max(0.0, 1 - 0.2 * t) for t in range(10)]
    ids = model.encode_continuation(text)
    first = len(model.encode_continuation(text[: item.position]))
    losses = []
    call = f"[{item.call.tool}({item.call.arguments}) →"
    for prefix in ("", f"{call}]\n", f"{call} {item.call.result}]\n"):
        begin = [*(model.encode("") or [model.end_token_id]), *model.encode_continuation(prefix)]
        rows = log_probabilities([*begin, *ids])
        losses.append(
            -sum(
                weights[j - first] / sum(weights) * rows[len(begin) + j - 1][ids[j]]
                for j in range(first, min(first + 10, len(ids)))
            )
        )
    return Losses(*losses)


def test_scores_are_those_of_three_plain_forward_passes(
    model: LanguageModel, log_probabilities: Callable[[Sequence[int]], Any]
) -> None:
    """Windows that share a prefix and a text are read together: no score may change by it."""
    texts = [f"{text} [see → 3]" for text in TEXTS]
    calls = [Call("Calculator", "37 - 8 + 6", "35"), Call("Calendar", "", "Today."), Call("QA", '"é?"', "ü")]
    candidates = [
        (index, PlacedCall(position, call))
        for index, text in enumerate(texts)
        for call in calls
        for position in (0, text.index("many"), text.index("?"), len(text) - 1)
    ]
    found = tool_use.score_calls(model, texts, candidates)
    assert len(found) == len(candidates)
    for (index, item), losses in zip(candidates, found, strict=True):
        expected = reference(model, log_probabilities, texts[index], item)
        for name in ("no_call", "call", "call_with_result"):
            # float32 against float64
            assert getattr(losses, name) == pytest.approx(getattr(expected, name), rel=1e-4, abs=1e-4)


def test_a_score_does_not_depend_on_the_other_candidates(model: LanguageModel) -> None:
    call = Call("Calculator", "1 + 1", "2")
    candidates = [(0, PlacedCall(position, call)) for position in (0, 9, 40)]
    together = tool_use.score_calls(model, TEXTS, candidates)
    for candidate, losses in zip(candidates, together, strict=True):
        (alone,) = tool_use.score_calls(model, TEXTS, [candidate])
        assert alone.no_call == pytest.approx(losses.no_call, abs=1e-4)
        assert alone.reduction == pytest.approx(losses.reduction, abs=1e-4)


@pytest.mark.parametrize("least", [-1.0, 0.0, 0.01, 0.5, 2.0])
def test_what_cannot_pass_is_not_scored_and_all_that_passes_is(model: LanguageModel, least: float) -> None:
    calls = [Call("Calculator", "37 - 8 + 6", "35"), Call("QA", '"Who?"', TEXTS[1][:12])]
    candidates = [
        (index, PlacedCall(position, call))
        for index in range(4)
        for call in calls
        for position in range(0, 60, 7)
    ]
    whole = tool_use.score_calls(model, TEXTS, candidates)
    short = tool_use.score_calls(model, TEXTS, candidates, least_reduction=least)
    for known, losses in zip(short, whole, strict=True):
        assert losses.reduction is not None
        assert known.most_reduction >= losses.reduction - 1e-4
        if known.reduction is None:
            assert known.most_reduction < least
        else:
            assert known.reduction == pytest.approx(losses.reduction, abs=1e-4)
    if least > 0:
        assert sum(losses.call is None for losses in short) > 0


def test_a_prefix_and_its_text_are_read_once_up_to_the_last_window() -> None:
    model = Scripted()
    text = "abcdefghijklmnopqrstuvwxyz"
    call = Call("Calculator", "1", "2")
    candidates = [(0, PlacedCall(position, call)) for position in (3, 10, 3)]
    tool_use.score_calls(model, [text], candidates)
    prefixes = ("", "[Calculator(1) → 2]\n", "[Calculator(1) →]\n")
    assert model.scored == [(f"\0{prefix}abc", "defghijklmno") for prefix in prefixes]


def test_a_call_after_which_nothing_comes_cannot_be_scored() -> None:
    call = Call("Calculator", "1", "2")
    with pytest.raises(ValueError, match="no token of text 0 begins at or after its character 3"):
        tool_use.score_calls(Scripted(), ["abc"], [(0, PlacedCall(3, call))])
    with pytest.raises(ValueError, match="has no result"):
        tool_use.score_calls(Scripted(), ["abc"], [(0, PlacedCall(1, Call("Calculator", "1")))])


# --- calling tools while writing ---

ALPHABET = 0x2200
END = 0


@dataclass
class Scripted(ByteModel):
    """A model whose tokens are characters: after a text that ends in a key of `script`, its characters in
    the order of their probability; else the end.
    """

    script: dict[str, str] = field(default_factory=dict)
    wide: bool = False
    positions: int = 10_000
    model_id: str = "b2:scripted"
    scored: list[tuple[str, str]] = field(default_factory=list)
    sequences: list[str] = field(default_factory=list)

    def encode_continuation(self, text: str) -> list[int]:
        return [ord(character) for character in text for _ in range(1 + self.wide)]

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(chr(token) for token in token_ids if token != END)

    def likeliest(self, text: str) -> str:
        keys = [key for key in self.script if text.endswith(key)]
        return self.script[max(keys, key=len)] if keys else chr(END)

    def probabilities(self, text: str) -> dict[int, float]:
        """A half, a quarter, …; nothing for what the script does not name."""
        return {ord(character): 0.5 ** (at + 1) for at, character in enumerate(self.likeliest(text))}

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        parameters: SamplingParameters,
        progress: Progress | None = None,
    ) -> list[list[Generation]]:
        assert parameters.temperature == 0
        if any(len(prompt) >= self.positions for prompt in prompts):
            raise ModelError("a prompt leaves no room")
        return [[self._greedy(self.decode(prompt), parameters)] for prompt in prompts]

    def _greedy(self, prompt: str, parameters: SamplingParameters) -> Generation:
        said = ""
        banned = "".join(map(chr, parameters.banned))
        for _ in range(min(parameters.max_tokens, self.positions - len(prompt))):
            said += next(sign for sign in self.likeliest(prompt + said) + chr(END) if sign not in banned)
            stops = [said.index(stop) for stop in parameters.stop if stop in said]
            if said.endswith(chr(END)) or stops:
                text = said[: min(stops, default=None)].rstrip(chr(END))
                return Generation(list(map(ord, said)), [0.0] * len(said), text, "stop")
        return Generation(list(map(ord, said)), [0.0] * len(said), said, "length")

    def score(
        self, contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        texts = (["".join(map(chr, ids)) for ids in several] for several in (contexts, continuations))
        self.scored += zip(*texts, strict=True)
        return [[-1.0] * len(ids) for ids in continuations]

    def among_likeliest(
        self,
        contexts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        token_id: int,
        most: int,
    ) -> list[list[bool]]:
        for context, said in zip(contexts, continuations, strict=True):
            assert len(context) + len(said) < self.positions, "vLLM writes one token more"
        return [
            [
                chr(token_id) in self.likeliest(self.decode([*context, *said[:at]]))[:most]
                for at in range(len(said))
            ]
            for context, said in zip(contexts, continuations, strict=True)
        ]

    def next_token_probability(self, sequences: Sequence[Sequence[int]], token_id: int) -> list[list[float]]:
        self.sequences += map(self.decode, sequences)
        return [
            [self.probabilities(self.decode(ids[: at + 1])).get(token_id, 0.0) for at in range(len(ids))]
            for ids in sequences
        ]


OPENING = ord("[")
CALCULATING = {
    "400 are": " ",
    "are ": "3",
    "are 3": "0",
    "are 30": "%",
    "30%": ".",
    "%.": chr(END),
    "[": "C",
    "] ": "2",
    "]": " ",
    "] 2": "9",
    "] 29": "%",
    "29%": ".",
}


def scripted(**steps: str) -> Scripted:
    """Says ` 30%.` after `400 are`, and ` 29%.` after a call, which it writes letter by letter."""
    script = dict(CALCULATING)
    call = steps.pop("call", "Calculator(400 / 1400)→")
    for at in range(1, len(call)):
        script[f"[{call[:at]}"] = call[at]
    return Scripted(script | {key.replace("_", " "): value for key, value in steps.items()})


def transcribed(model: Scripted, *prompts: str, **options: Any) -> list[Transcript]:
    box = Toolbox([Calculator(), Calendar()])
    return generate_with_tools(model, [begun(model, one) for one in prompts], box, opening=OPENING, **options)


def test_a_call_opens_where_its_token_is_among_the_likeliest() -> None:
    model = scripted(**{"are_": "3abcdefgh["})
    (transcript,) = transcribed(model, "400 are")
    assert transcript.text == " [Calculator(400 / 1400) → 0.29] 29%."
    assert transcript.calls == (
        MadeCall(1, "Calculator(400 / 1400)", Call("Calculator", "400 / 1400", "0.29")),
    )
    assert transcript.finish_reason == "stop"
    assert model.decode(transcript.token_ids) == transcript.text
    assert take_out(transcript.text, ["Calculator"])[0] == " 29%."


def test_no_call_opens_below_the_tenth_place_or_with_no_calls_left() -> None:
    for model, options in (
        (scripted(**{"are_": "3abcdefghi["}), {}),
        (scripted(**{"are_": "3abcdefgh["}), {"likeliest": 9}),
        (scripted(**{"are_": "3["}), {"most_calls": 0}),
    ):
        (transcript,) = transcribed(model, "400 are", **options)
        assert (transcript.text, transcript.calls) == (" 30%.", ())


def test_at_most_one_call_an_input_or_as_many_as_asked_for() -> None:
    model = scripted(**{"are_": "[", "29%": ".["})
    (once,) = transcribed(model, "400 are")
    assert once.text == " [Calculator(400 / 1400) → 0.29] 29%."
    (twice,) = transcribed(model, "400 are", most_calls=2)
    assert twice.text == (" [Calculator(400 / 1400) → 0.29] 29%[Calculator(400 / 1400) → 0.29] 29%.")
    assert [call.position for call in twice.calls] == [1, 36]


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        ("Calculator(1 / 0)→", "division by zero"),
        ("Calculator(1 + 1→", "not a call of the form Tool(input)"),
        ("Chart(1)]", "no tool is called Chart; there are Calculator, Calendar"),
        ("Calendar()→", "the document has no date"),
        ("C" * 200, "not a call of the form Tool(input)"),
    ],
)
def test_a_call_that_fails_is_left_out_and_recorded(call: str, problem: str) -> None:
    (transcript,) = transcribed(scripted(call=call, **{"are_": "3["}), "400 are")
    assert transcript.text == " 30%."
    ((made),) = transcript.calls
    assert (made.position, made.problem) == (1, problem)
    assert made.call is None or made.call.result is None


def test_after_a_call_that_fails_another_may_open_later() -> None:
    model = scripted(**{"are_": "3[", "are_30": "%["})
    model.script["[Calculator("] = ")"  # nothing to calculate
    model.script["30[Calculator("] = "7"
    model.script |= {"30[Calculator(7": ")", "30[Calculator(7)": "→", "[Calculator()": "→"}
    (transcript,) = transcribed(model, "400 are", most_calls=2)
    assert transcript.text == " 30[Calculator(7) → 7] 29%."
    assert [call.problem for call in transcript.calls] == ["the input is empty", None]


def test_prompts_are_served_together_and_stops_and_limits_hold() -> None:
    model = scripted(**{"are_": "3["})
    both = transcribed(model, "400 are", "nothing", "so 400 are")
    assert [transcript.text for transcript in both] == [
        *(" [Calculator(400 / 1400) → 0.29] 29%.", ""),
        " [Calculator(400 / 1400) → 0.29] 29%.",
    ]
    parameters = SamplingParameters(temperature=0.7, max_tokens=3, stop=("9%",))
    (short,) = transcribed(model, "400 are", parameters=parameters)
    assert (short.text, short.finish_reason) == (" [Calculator(400 / 1400) → 0.29] 2", "length")
    parameters = SamplingParameters(max_tokens=50, stop=("9%",))
    (stopped,) = transcribed(model, "400 are", parameters=parameters)
    assert (stopped.text, stopped.finish_reason) == (" [Calculator(400 / 1400) → 0.29] 2", "stop")
    assert transcribed(model) == []


def test_a_transcript_that_fills_the_positions_ends_alone() -> None:
    """Of three in one batch: room for no result, for no whole call, for not one token."""
    model = scripted(**{"are_": "3["})
    model.positions = 36
    long = "x" * 20 + " 400 are"
    prompts = ["400 are", long, "x" * 36]
    no_result, no_call, nothing = transcribed(model, *prompts)
    (left_out,) = no_result.calls
    assert left_out.call and left_out.call.result is None
    assert left_out.problem == "its result leaves no room in the model"
    assert no_result.text == no_call.text == " 30%.", "the text goes on without the call"
    assert no_call.calls[0].problem == "not a call of the form Tool(input)"
    assert (nothing.text, nothing.calls, nothing.finish_reason) == ("", (), "too_long")
    assert [transcribed(model, prompt)[0] for prompt in prompts] == [no_result, no_call, nothing]


def test_a_draft_is_cut_at_the_positions_and_no_call_opens_without_room() -> None:
    model = scripted(**{"are_": "3["})
    for positions, calls in ((9, 0), (10, 1)):
        model.positions = positions
        (transcript,) = transcribed(model, "400 are")
        assert (transcript.text, transcript.finish_reason) == (" 30%."[: positions - 7], "length")
        assert len(transcript.calls) == calls


def test_a_failing_model_is_not_taken_for_a_full_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ModelError("the server is gone")

    monkeypatch.setattr(Scripted, "generate", fail)
    with pytest.raises(ModelError, match="the server is gone"):
        transcribed(scripted(), "400 are")


def test_tools_with_the_embedded_model(model: LanguageModel) -> None:
    """The untrained one opens no sensible call, but goes through the whole of it."""
    opening = opening_token(model)
    box = open_tools(["Calculator", "Calendar", "WikiSearch"])
    prompts = [f"Q: {text}\nA:" for text in TEXTS[:2]]
    parameters = SamplingParameters(max_tokens=12)
    silent = without_calls(parameters, opening)
    plain = model.generate([model.encode(prompt) for prompt in prompts], [[0], [0]], silent)
    for likeliest in (1, 3, model.vocabulary_size):
        made = generate_with_tools(
            model,
            [begun(model, prompt) for prompt in prompts],
            box,
            opening=opening,
            parameters=parameters,
            likeliest=likeliest,
        )
        for transcript, (draft,) in zip(made, plain, strict=True):
            assert opening not in draft.token_ids
            assert len(transcript.calls) <= 1
            if likeliest == model.vocabulary_size:
                (call,) = transcript.calls
                assert call.position == 0, "everything is among the likeliest, so it opens at once"
            for call in transcript.calls:
                assert isinstance(read_call(call.written, box), str) == (call.call is None)
                assert (call.problem is None) == (transcript.text != draft.text)
