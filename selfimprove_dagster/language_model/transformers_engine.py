"""Run language models with transformers and PyTorch, on the CPU or a GPU. This is the default engine.

It has its own decoding, since transformers' continuous batching (5.19) uses one seed for all rows, so that a
row's text depends on its batch. It also generates 3.5 times as many tokens per CPU second with a model of
134.5M parameters and 16 samples per prompt, and 1.4 times as many with one sample
(`benchmarks/results/continuous_batching.md`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM

from selfimprove_dagster.errors import ModelError, first_line
from selfimprove_dagster.language_model.attention import GROUPED_ATTENTION
from selfimprove_dagster.language_model.base import Generation, Progress, SamplingParameters
from selfimprove_dagster.language_model.constraining import Constraint, grammar_tokens
from selfimprove_dagster.language_model.decoding import Decoder, Drawn, Row, decode, rows_of_a_lane
from selfimprove_dagster.language_model.folder import model_folder, revision_of
from selfimprove_dagster.language_model.merging import opened
from selfimprove_dagster.language_model.network import Network
from selfimprove_dagster.language_model.quiet import quietly
from selfimprove_dagster.language_model.scoring import Question, answers
from selfimprove_dagster.language_model.stopping import StopStrings
from selfimprove_dagster.language_model.tokens import (
    TokenText,
    check_contexts,
    check_options,
    check_sampling,
    check_tokens,
    joint_logprobs,
    normalised,
    without_room,
)
from selfimprove_dagster.language_model.weights import model_id

PROMISE = (
    "each row has its own seed: the same device, number format and versions give the same texts and ids again; rows of "
    "another batch may differ where rounding decides between two tokens"
)

DTYPES = ("float32", "bfloat16", "float16", "auto")


class TransformersLanguageModel(TokenText):
    """A decoder-only model run by transformers; implements `base.LanguageModel`.

    Weights are read from safetensors only. Seeds are per row: a row's samples depend on its seed, the step
    and its logits, not on other rows, so the same seed gives the same text in any batch, up to the rounding
    of the logits (`benchmarks/generation_speed.py` counts the rows that differ).
    """

    def __init__(
        self,
        path: str | Path,
        *,
        device: str = "auto",
        dtype: str = "float32",
        token_budget: int = 65_536,
        trust_remote_code: bool = False,
        attention: str = "auto",
    ) -> None:
        """Load the model in the directory `path`, or with that name on the Hugging Face Hub.

        An adapter is merged into the weights of its base in memory.
        `device`: "auto" is CUDA where there is one, else the CPU. `dtype`: "auto" is float32 on a CPU, else
        what the files say.
        `token_budget`: tokens (rows × expected length) in a batch, of which a small model on the CPU has one
        a core; keys and values take memory for at most about twice as many. `attention`: "auto" is the
        fastest that agrees with the model's own eager attention; a name that transformers knows gives up the
        sharing of prompts. Raises ModelError where the model is missing, has no safetensors weights, or
        cannot be batched.
        """
        if dtype not in DTYPES:
            raise ModelError(f"unknown dtype {dtype!r}: use one of {', '.join(DTYPES)}")
        if token_budget < 1:
            raise ModelError(f"token_budget is {token_budget}: it must be at least 1")
        directory = model_folder(path, trust_remote_code=trust_remote_code)
        self.model_id = model_id(directory)
        self.revision = revision_of(directory)
        self.engine = f"transformers {transformers.__version__}"
        self.token_budget = token_budget
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        if dtype == "auto" and torch.device(device).type == "cpu":
            dtype = "float32"
        super().__init__(directory, trust_remote_code=trust_remote_code)

        def opens(folder: Path) -> Any:
            try:
                return AutoModelForCausalLM.from_pretrained(
                    folder, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code
                )
            except (OSError, ValueError, KeyError) as error:
                raise ModelError(f"transformers cannot open {folder}: {first_line(error)}") from error

        with quietly():
            model = opened(opens, directory)
        self.end_tokens = _end_tokens(model, self.end_token_id)
        self._network = Network(model.to(device).eval(), self.end_token_id)
        self.positions = self._network.max_length
        self.device = str(self._network.device)
        self.dtype = str(model.dtype).removeprefix("torch.")
        self._network.adapt([GROUPED_ATTENTION, "sdpa"] if attention == "auto" else [attention])

    @staticmethod
    def promised(options: Mapping[str, Any]) -> str:
        """Return what the engine with these options promises; see `language_model.promise_of`."""
        return PROMISE

    @property
    def promise(self) -> str:
        """Return which texts and ids a repeated run gives."""
        return PROMISE

    @property
    def shares_prompts(self) -> bool:
        """Return whether the samples of a prompt share its keys and values (plain attention layers only)."""
        return self._network.shares_prompts

    def rows_at_once(self, prompts: Sequence[Sequence[int]], max_tokens: int) -> int:
        """Return how many continuations of such prompts are in memory at the same time at most."""
        longest = max((len(prompt) for prompt in prompts), default=0)
        limit = max(min(max_tokens, self.positions - longest), 1)
        return rows_of_a_lane(max(longest + limit // 2, 1), self.token_budget) * self._network.lanes

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        parameters: SamplingParameters,
        progress: Progress | None = None,
    ) -> list[list[Generation]]:
        """Sample `len(seeds[i])` continuations of `prompts[i]`, each determined by its own seed.

        A row ends at `max_tokens`, or earlier at the end of the model's context. An empty prompt is replaced
        by the beginning-of-sequence token, or else by the end-of-sequence token. Raises ModelError for invalid
        parameters, and for a structure that cannot be generated.
        """
        check_sampling(prompts, seeds, parameters)
        started = [self.started(prompt) for prompt in prompts]
        check_tokens([*started, parameters.banned], self._network.vocabulary)
        self.check_structure(started, parameters)
        full = without_room(started, self.positions)
        results = {
            (index, sample): path for index, path in full.items() for sample in range(len(seeds[index]))
        }
        if progress is not None and results:
            progress(len(results), 0)
        rows = []
        for index, prompt in enumerate(started):
            if index in full:
                continue
            limit = min(parameters.max_tokens, self.positions - len(prompt))
            rows += [Row(index, sample, seed, limit) for sample, seed in enumerate(seeds[index])]
        stops = self.stop_strings(parameters.stop)
        ends = np.union1d(self.end_tokens, [self.turn_end_id])
        constraint = self._constraint(parameters, ends)
        decoder = Decoder(self._network, parameters, ends, stops, constraint)
        with closing(decode(decoder, started, rows, self.token_budget)) as batches:
            for drawn in batches:
                results.update(self._generations(drawn, stops))
                if progress is not None:
                    progress(len(drawn), sum(len(row.token_ids) for row in drawn))
        return [[results[index, sample] for sample in range(len(group))] for index, group in enumerate(seeds)]

    @cached_property
    def _grammar_tokens(self) -> Any:
        return grammar_tokens(self.tokenizer, self._network.vocabulary, self.end_token_id)

    def _constraint(self, parameters: SamplingParameters, end_tokens: np.ndarray) -> Constraint | None:
        if parameters.structure is None:
            return None
        parameters.structure.grammar()  # the error if the library is missing names the extra
        return Constraint(parameters.structure, self._grammar_tokens, end_tokens, parameters.banned)

    def score(
        self, contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Return the natural log-probability of each token of `continuations[i]` after `contexts[i]`.

        An empty context is replaced as in `generate`. Common prefixes of pairs are read once.
        """
        check_contexts(contexts, continuations)
        targets = [np.array(continuation, dtype=np.int64) for continuation in continuations]
        check_tokens(continuations, self._network.vocabulary)
        found = answers(self._network, self._continued(contexts, continuations, targets))
        return [values[:, 0].tolist() for values in found]

    def among_likeliest(
        self,
        contexts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        token_id: int,
        most: int,
    ) -> list[list[bool]]:
        """Return, for each token of the continuations, whether `token_id` is among the `most` most likely ones
        in its place.

        This takes one forward pass per pair.
        """
        check_contexts(contexts, continuations)
        check_tokens([*continuations, [token_id]], self._network.vocabulary)
        targets = [np.full(len(continuation), token_id) for continuation in continuations]
        questions = self._continued(contexts, continuations, targets)
        found = answers(self._network, questions, Network.likelier)
        return [(ranks[:, 0] < most).tolist() for ranks in found]

    def _continued(
        self,
        contexts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        targets: Sequence[np.ndarray],
    ) -> list[Question]:
        """Apply `read` to the targets at the position of each token of a continuation."""
        questions = []
        for context, continuation, wanted in zip(contexts, continuations, targets, strict=True):
            started = tuple(self.started(context))
            check_tokens([started], self._network.vocabulary)
            # The last token is a target only, never read.
            read = tuple(continuation[:-1])
            questions.append(Question(started + read, len(started) - 1, wanted.reshape(-1, 1)))
        return questions

    def option_probabilities(
        self, contexts: Sequence[Sequence[int]], options: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Return the probability of each option (token ids, equal for all contexts), summing to 1 per
        context.

        Options compete by the joint probability of their tokens. If each is one token, a context is read
        once, else once per option.
        """
        check_options(options)
        if all(len(option) == 1 for option in options):
            started = [tuple(self.started(context)) for context in contexts]
            check_tokens([*started, *options], self._network.vocabulary)
            targets = np.array(options, dtype=np.int64).reshape(1, -1)
            found = answers(self._network, [Question(tokens, len(tokens) - 1, targets) for tokens in started])
            return normalised([row[0] for row in found])
        return normalised(joint_logprobs(self.score, contexts, options))

    def next_token_probability(self, sequences: Sequence[Sequence[int]], token_id: int) -> list[list[float]]:
        """For each sequence and each position i, p(token_id | tokens up to and including i)."""
        check_tokens([*sequences, [token_id]], self._network.vocabulary)
        wanted = [index for index, sequence in enumerate(sequences) if len(sequence)]
        questions = [
            Question(tuple(sequences[i]), 0, np.full((len(sequences[i]), 1), token_id)) for i in wanted
        ]
        found = dict(zip(wanted, answers(self._network, questions), strict=True))
        return [np.exp(found[i][:, 0]).tolist() if i in found else [] for i in range(len(sequences))]

    def close(self) -> None:
        """Release the memory of the weights at once, as nothing else refers to them."""
        self.__dict__.pop("_network", None)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _generations(
        self, drawn: Sequence[Drawn], stops: StopStrings
    ) -> Iterator[tuple[tuple[int, int], Generation]]:
        """Yield (prompt, sample) and the generation of each finished row."""
        texts = self.decode_many([row.token_ids for row in drawn])
        for row, text in zip(drawn, texts, strict=True):
            said = self.said(stops.cut(text))
            generation = Generation(row.token_ids, row.logprobs, said, row.finish_reason)
            yield (row.row.prompt, row.row.sample), generation


def _end_tokens(model: Any, end_token: int) -> np.ndarray:
    """Return the end tokens of the tokenizer and of the generation settings (chat models end their turns)."""
    settings = getattr(model, "generation_config", None)
    named = getattr(settings, "eos_token_id", None)
    more = [] if named is None else [named] if isinstance(named, int) else list(named)
    return np.array(sorted({end_token, *more}), dtype=np.int64)
