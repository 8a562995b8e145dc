"""Language models that say what a test tells them to."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from selfimprove_dagster.language_model.base import Generation, Progress, SamplingParameters
from selfimprove_dagster.language_model.prompting import TEXT
from selfimprove_dagster.language_model.tokens import joint_logprobs, normalised, without_room


class ByteModel:
    """A model whose tokens are the bytes of its texts; a subclass says what `path` it draws after a prompt."""

    model_id: str
    engine = "fake 1"
    promise = "the same seeds give the same texts"
    prompting = TEXT
    end_token_id = 0
    turn_end_id = 0

    def encode(self, text: str) -> list[int]:
        return self.encode_continuation(text)

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def encode_completions(self, completions: Sequence[str]) -> list[list[int]]:
        return self.encode_continuations(completions)

    def encode_prompts(self, prompts: Sequence[str]) -> list[list[int]]:
        return self.encode_many(prompts)

    def encode_continuation(self, text: str) -> list[int]:
        return list(text.encode(errors="surrogatepass"))

    def encode_continuations(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode_continuation(text) for text in texts]

    def decode(self, token_ids: Sequence[int]) -> str:
        return bytes(token_ids).decode(errors="surrogatepass")

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        parameters: SamplingParameters,
        progress: Progress | None = None,
    ) -> list[list[Generation]]:
        drawn = [
            [self.path(prompt, seed, parameters) for seed in row]
            for prompt, row in zip(prompts, seeds, strict=True)
        ]
        if progress:
            progress(sum(map(len, drawn)), sum(len(path.token_ids) for row in drawn for path in row))
        return drawn

    def path(self, prompt: Sequence[int], seed: int, parameters: SamplingParameters) -> Generation:
        raise NotImplementedError

    def close(self) -> None:
        pass


@dataclass
class FakeLanguageModel(ByteModel):
    """Says what its seeds say: the same seed gives the same path, wherever it stands in a batch.

    `fails_at` is the number of the generate call that dies, as a machine that loses its power does.
    """

    model_id: str = "b2:fake"
    fails_at: int | None = None
    calls: list[int] = field(default_factory=list)

    def encode(self, text: str) -> list[int]:
        return [1, *text.encode()]

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        parameters: SamplingParameters,
        progress: Progress | None = None,
    ) -> list[list[Generation]]:
        if len(self.calls) == self.fails_at:
            raise KeyboardInterrupt
        self.calls.append(len(prompts))
        return super().generate(prompts, seeds, parameters, progress)

    def path(self, prompt: Sequence[int], seed: int, parameters: SamplingParameters) -> Generation:
        answer = 0 if parameters.temperature == 0 else seed % 5
        ids = [seed % 251, answer]
        return Generation(ids, [-0.5, -0.25], f" Count. The answer is {answer}.", "stop")


@dataclass
class ToldModel(ByteModel):
    """`says` gives what follows a prompt; `fine` the probability of the first of several options after one.

    `refuses` says what is wrong with a prompt that it does not continue or score.
    """

    says: Callable[[str], str]
    fine: Callable[[str], float] = lambda prompt: 0.0
    refuses: Callable[[str], str] = lambda prompt: ""
    positions: int = 10_000
    model_id: str = "b2:told"
    batches: list[list[str]] = field(default_factory=list)

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        parameters: SamplingParameters,
        progress: Progress | None = None,
    ) -> list[list[Generation]]:
        self.batches.append([self.decode(prompt) for prompt in prompts])
        return super().generate(prompts, seeds, parameters, progress)

    def path(self, prompt: Sequence[int], seed: int, parameters: SamplingParameters) -> Generation:
        if problem := self._problem(prompt):
            return problem
        ids = self.encode(f" {said}" if (said := self.says(self.decode(prompt))) else "")
        cut = ids[: parameters.max_tokens]
        ended = "stop" if len(ids) <= parameters.max_tokens else "length"
        return Generation(cut, [-0.5] * len(cut), self.decode(cut), ended)

    def option_probabilities(
        self, contexts: Sequence[Sequence[int]], options: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        first = [
            math.nan if self._problem(context) else self.fine(self.decode(context)) for context in contexts
        ]
        others = len(options) - 1
        return [[fine, *[(1 - fine) / others] * others] for fine in first]

    def _problem(self, prompt: Sequence[int]) -> Generation | None:
        if len(prompt) >= self.positions:
            return without_room([prompt], self.positions)[0]
        why = self.refuses(self.decode(prompt))
        return Generation.without_text("refused", why) if why else None


@dataclass
class WritingModel(ByteModel):
    """`writes` gives the whole texts that follow a prompt, with their probabilities.

    `pieces` are the tokens of more than one character, longest match first; any other character is its own.
    """

    writes: Callable[[str], Mapping[str, float]]
    pieces: Sequence[str] = ()
    model_id: str = "b2:writing"

    def encode_continuation(self, text: str) -> list[int]:
        ids = []
        while text:
            known = [piece for piece in self.pieces if text.startswith(piece)]
            piece = max(known, key=len, default=text[0])
            ids.append(0x110000 + self.pieces.index(piece) if piece in self.pieces else ord(piece))
            text = text[len(piece) :]
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        return "".join(self.pieces[one - 0x110000] if one >= 0x110000 else chr(one) for one in token_ids)

    def score(
        self, contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        return [
            self._score(self.decode(context), list(ids))
            for context, ids in zip(contexts, continuations, strict=True)
        ]

    def option_probabilities(
        self, contexts: Sequence[Sequence[int]], options: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        return normalised(joint_logprobs(self.score, contexts, options))

    def path(self, prompt: Sequence[int], seed: int, parameters: SamplingParameters) -> Generation:
        shares = self.writes(self.decode(prompt))
        text = max(shares, key=shares.__getitem__)
        ids = self.encode_continuation(text)
        return Generation(ids, [-0.5] * len(ids), text, "stop")

    def _score(self, prompt: str, ids: list[int]) -> list[float]:
        written = [(self.encode_continuation(text), share) for text, share in self.writes(prompt).items()]
        masses = [
            sum(share for text, share in written if text[:end] == ids[:end]) for end in range(len(ids) + 1)
        ]
        return [math.log(after / before) if after else -1e3 for before, after in pairwise(masses)]
