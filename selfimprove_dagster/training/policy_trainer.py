"""TRL's GRPOTrainer and RLOOTrainer, drawing with this project's decoder and keeping every rollout.

Imports torch, transformers and TRL; import it where training starts.

Changed against trl 1.16, besides what `resumable_trainer` changes:
- Prompts are token ids, and completions are drawn with a seed a row, so that they do not depend on what was
  drawn before. TRL's come from torch's one generator, through transformers' `generate`. Stop strings end them
  as they end what the engine draws.
- Rewards come from one callable over token ids; nothing is decoded.
- On the CPU, log-probabilities are computed where there are completion tokens, in rows padded on the right;
  TRL projects every position of the prompts through the output head too.
- RLOO takes the log-probabilities that the decoder notes for those of the policy before its step, on the CPU
  in float32 at temperature 1; TRL has a forward pass for them.
- Rollouts are kept, and committed with each checkpoint.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

import numpy as np
import torch
from torch import Tensor
from trl import GRPOTrainer, RLOOTrainer

from selfimprove_dagster.errors import TrainingError
from selfimprove_dagster.language_model.attention import GROUPED_ATTENTION
from selfimprove_dagster.language_model.base import SamplingParameters
from selfimprove_dagster.language_model.decoding import Decoder, Drawn, Row, decode
from selfimprove_dagster.language_model.network import Network
from selfimprove_dagster.language_model.tokens import TokenText
from selfimprove_dagster.lots import seed_of
from selfimprove_dagster.training import ranks
from selfimprove_dagster.training.adapters import inner, is_switched_off
from selfimprove_dagster.training.chunked_logits import IGNORED
from selfimprove_dagster.training.resumable_trainer import ResumableTrainer
from selfimprove_dagster.training.rewards import Reward, TokenisedPrompt
from selfimprove_dagster.training.rollouts import Rollout, RolloutFiles

_TOKEN_BUDGET = 65_536


_ROWS = 16
"""Rows that go through the model together on the CPU, where more of them are no faster."""


class Sampler:
    """Draws completions with weights that are being trained."""

    def __init__(
        self,
        model: Any,
        end_tokens: Sequence[int],
        parameters: SamplingParameters,
        text: TokenText,
        end_token: int,
    ) -> None:
        """`model` must lie on its device, and not yet be in a trainer's hands.

        `text` is its tokenizer, and `end_token` ends what is rewarded where a stop string ended the completion.
        """
        # Another instance over the same weights: it has the attention that draws fastest, and its forward
        # pass stays as it is.
        model = inner(model)
        weights = {id(weight): weight for weight in model.parameters()}
        self._network = Network(copy.deepcopy(model, weights).eval(), end_tokens[0])
        self._network.adapt([GROUPED_ATTENTION, "sdpa"])
        self._text, self._end_token, self._end_tokens = text, end_token, frozenset(end_tokens)
        stops = text.stop_strings(parameters.stop)
        self._decoder = Decoder(self._network, parameters, np.array(end_tokens), stops)

    def draw(self, prompts: Sequence[list[int]], seeds: Sequence[Sequence[int]]) -> list[Drawn]:
        """One completion of `prompts[i]` for each of `seeds[i]`, prompt by prompt."""
        rows = self._rows(prompts, seeds)
        found: dict[tuple[int, int], Drawn] = {}
        with closing(decode(self._decoder, prompts, rows, _TOKEN_BUDGET)) as batches:
            for drawn in batches:
                found.update({(one.row.prompt, one.row.sample): one for one in drawn})
        return [found[row.prompt, row.sample] for row in rows]

    def _rows(self, prompts: Sequence[list[int]], seeds: Sequence[Sequence[int]]) -> list[Row]:
        most, positions = self._decoder.parameters.max_tokens, self._network.max_length
        return [
            Row(index, sample, seed, min(most, positions - len(prompts[index])))
            for index, group in enumerate(seeds)
            for sample, seed in enumerate(group)
        ]

    def said(self, drawn: Sequence[Drawn]) -> list[list[int]]:
        """Return the tokens of completions as a reward reads them.

        Where a stop string ended a completion these are the tokens of the text before it and an end token, as those
        of an example are.
        """
        stopped = [one.finish_reason == "stop" and one.token_ids[-1] not in self._end_tokens for one in drawn]
        texts = self._text.decode_many([one.token_ids for one, at in zip(drawn, stopped, strict=True) if at])
        cut = iter(self._text.encode_continuations([self._decoder.stops.cut(text) for text in texts]))
        return [
            [*next(cut), self._end_token] if at else one.token_ids
            for one, at in zip(drawn, stopped, strict=True)
        ]


class VllmSampler(Sampler):
    """Draws completions with the vLLM that TRL runs beside the trainer (`vllm_rollouts`); seeds count for nothing."""

    generation: Any
    """TRL's `VLLMGeneration`, once there is a trainer."""

    def draw(self, prompts: Sequence[list[int]], seeds: Sequence[Sequence[int]]) -> list[Drawn]:
        rows = self._rows(prompts, seeds)
        self.generation.sync_weights()
        _, completions, logprobs, _ = self.generation.generate([prompts[row.prompt] for row in rows], None, 1)
        texts = self._text.decode_many(completions)
        return [
            Drawn(row, list(ids), [likely[0] for likely in chances], "stop" if ended else "length")
            for row, ids, chances, text in zip(rows, completions, logprobs, texts, strict=True)
            for ended in (ids[-1] in self._end_tokens or self._decoder.stops.cut(text) != text,)
        ]


class PolicyTrainer(ResumableTrainer):
    """Mixed in before GRPOTrainer or RLOOTrainer, over rows whose `prompt` is an index into `prompts`."""

    measures: tuple[tuple[str, str], ...] = (
        ("reward", "reward"),
        ("reward_deviation", "reward_std"),
        ("kl", "kl"),
        ("entropy", "entropy"),
        ("completion_tokens", "completion_tokens"),
        ("unfinished", "unfinished"),
    )
    num_generations: int
    temperature: float
    use_vllm: bool
    vllm_generation: Any
    _metrics: Any

    def __init__(
        self,
        *args: Any,
        prompts: Sequence[TokenisedPrompt],
        reward: Reward,
        sampler: Sampler,
        files: RolloutFiles | None,
        seed: int,
        on_rollouts: Callable[[list[Rollout]], None] | None,
        on_paid: Callable[[float], None] | None,
        **kwargs: Any,
    ) -> None:
        """`files` is None on ranks above 0, whose rollouts rank 0 has."""
        super().__init__(*args, reward_funcs=_no_reward, **kwargs)
        if isinstance(sampler, VllmSampler):
            sampler.generation = self.vllm_generation
        self._prompts, self._reward, self._sampler = prompts, reward, sampler
        self._files, self._seed = files, seed
        self._on_rollouts, self._on_paid = (on_rollouts, on_paid) if ranks.is_first() else (None, None)
        self._completions: list[list[int]] = []
        self._said: list[list[int]] = []
        self._rewards: list[float] = []
        self._drawn_logprobs: list[list[float]] = []
        is_exact = not self.args.bf16 and self.memory.weights == "float32"
        self._can_reuse = self.temperature == 1 and is_exact
        if self.args.beta == 0:
            self.measures = tuple(pair for pair in self.measures if pair[0] != "kl")

    def before_commit(self, step: int) -> None:
        if self._files is not None:
            self._files.commit(step)

    def draw(self, indices: Sequence[int]) -> tuple[list[list[int]], list[list[int]]]:
        """Prompts and completions of this rank's rows of a step.

        Of all ranks' rows, each `num_generations` are of one prompt. Where a group lies on several ranks, each of them
        draws its own part.
        """
        step, size = self.state.global_step + 1, self.num_generations
        first = self.accelerator.process_index * len(indices)
        prompts: list[list[int]] = []
        groups: dict[int, list[int]] = {}  # of each group, the seeds of its completions
        for row, index in enumerate(indices, first):
            group, sample = divmod(row, size)
            prompts.append(self._prompts[index].token_ids)
            groups.setdefault(group, []).append(seed_of("rollout", self._seed, step, group, sample))
        starts = [max(group * size - first, 0) for group in groups]
        drawn = self._sampler.draw([prompts[start] for start in starts], [*groups.values()])
        self._drawn_logprobs = [one.logprobs for one in drawn]
        self._said = self._sampler.said(drawn)
        completions = [one.token_ids for one in drawn]
        lengths = [len(completion) for completion in completions]
        unfinished = sum(one.finish_reason == "length" for one in drawn)
        counts = torch.tensor([sum(map(len, prompts)), sum(lengths), unfinished, len(drawn)])
        counts = self.accelerator.reduce(counts.to(self.args.device))
        tokens_in, tokens_out, unfinished, rows = counts.tolist()
        self.state.num_input_tokens_seen += tokens_in + tokens_out
        noted = self._metrics["train"]
        noted["completion_tokens"].append(tokens_out / rows)
        noted["unfinished"].append(unfinished / rows)
        return prompts, completions

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: list[list[int]], completion_ids: Any
    ) -> Tensor:
        """[rows of all ranks, 1]; raises TrainingError where the callable gives something else than a number a row.

        A row without a reward (NaN) has the mean of its group, so that it is neither reinforced nor discouraged.
        """
        money = self.money  # of all ranks, which all ask
        if self._on_paid is not None:
            self._on_paid(money)
        rewards = self._reward([self._prompts[index] for index in prompts], self._said)
        self._rewards = [float(reward) for reward in rewards]
        everyone = ranks.gathered(self._rewards)
        if (
            len(rewards) != len(completions)
            or any(map(math.isinf, rewards))
            or all(map(math.isnan, everyone))
        ):
            raise TrainingError(
                f"The reward gave {len(rewards)} values for {len(completions)} completions"
                if len(rewards) != len(completions)
                else f"The reward of a completion is not finite at step {self.state.global_step + 1}."
            )
        found = torch.tensor(everyone, dtype=torch.float32, device=self.args.device)
        if found.isnan().any():
            groups = found.view(-1, self.num_generations)
            means = groups.nanmean(dim=1, keepdim=True).nan_to_num(0.0)
            found = torch.where(groups.isnan(), means, groups).flatten()
        return found[:, None]

    def _generate_and_score_completions(self, inputs: list[dict[str, int]]) -> dict[str, Any]:
        """A step's rows, drawn, rewarded and kept."""
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)  # type: ignore[misc]
        indices, advantages = [row["prompt"] for row in inputs], batch["advantages"]
        rollouts = [
            Rollout(
                self.state.global_step + 1,
                index,
                number % self.num_generations,
                self._prompts[index].token_ids,
                completion,
                reward,
                advantage,
            )
            for number, (index, completion, reward, advantage) in enumerate(
                zip(indices, self._completions, self._rewards, advantages.tolist(), strict=True),
                self.accelerator.process_index * len(indices),
            )
        ]
        rollouts = ranks.gathered(rollouts)
        if self._files is not None:
            self._files.add(rollouts)
        if self._on_rollouts is not None:
            self._on_rollouts(rollouts)
        return batch

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **more: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """ln p of the completion tokens, [rows, `logits_to_keep`], and their distributions' entropies."""
        if not self.is_lean:
            found: tuple[Tensor, Tensor | None, Tensor | None] = super()._get_per_token_logps_and_entropies(  # type: ignore[misc]
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **more
            )
            return found
        draws = model is self.model and not is_switched_off(model)
        if draws and self._can_reuse and not torch.is_grad_enabled():
            # The policy before its step, which is the one that drew.
            drawn = [torch.tensor(row) for row in self._drawn_logprobs]
            return torch.nn.utils.rnn.pad_sequence(drawn, batch_first=True), None, None
        # Rows of similar length together, which leaves little padding.
        order = attention_mask.sum(dim=1).argsort(stable=True)
        parts = [
            self._log_probabilities(
                model, input_ids[rows], attention_mask[rows], logits_to_keep, compute_entropy
            )
            for rows in order.split(min(batch_size or len(order), _ROWS))
        ]
        logprobs, entropies = (list(column) for column in zip(*parts, strict=True))
        back = order.argsort()
        return torch.cat(logprobs)[back], torch.cat(entropies)[back] if compute_entropy else None, None

    def _log_probabilities(
        self, model: Any, input_ids: Tensor, attention_mask: Tensor, kept: int, compute_entropy: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Of rows with the prompt padded on the left and the completion, `kept` wide, on the right.

        Moved to the left edge, no token sees any padding: rows need no mask, attention its fastest kernel.
        """
        width = input_ids.shape[1]
        padding = attention_mask.argmax(dim=1)
        places = torch.arange(width)[None] + padding[:, None]
        starts = width - kept - padding
        end = int((attention_mask.sum(dim=1)).max())
        ids = input_ids.gather(1, places % width)[:, :end]
        columns = torch.arange(int(starts.min()) - 1, end - 1)
        # A row's columns; beyond its last token the mask of the loss takes away what is read here.
        own = (torch.arange(kept)[None] + (starts - starts.min())[:, None]).clamp(max=len(columns) - 1)
        if self.in_chunks:
            here, lengths = torch.arange(end)[None], attention_mask.sum(dim=1)
            is_target = (here >= starts[:, None]) & (here < lengths[:, None])
            with self.accelerator.autocast():
                found = model(
                    input_ids=ids,
                    labels=ids.masked_fill(~is_target, IGNORED),
                    in_chunks=True,
                    temperature=self.temperature,
                    with_entropy=compute_entropy,
                )
            entropies = found.entropy[:, columns].gather(1, own) if compute_entropy else None
            return found.log_probs[:, columns].gather(1, own), entropies
        with self.accelerator.autocast():
            logits = model(input_ids=ids, logits_to_keep=columns, use_cache=False).logits
        logits = logits.float() / self.temperature
        normalisers = logits.logsumexp(-1)
        logprobs = logits.gather(-1, ids[:, columns + 1, None]).squeeze(-1) - normalisers
        if not compute_entropy:
            return logprobs.gather(1, own), None
        with torch.no_grad():
            entropies = normalisers - (logits.softmax(-1) * logits).sum(-1)
        return logprobs.gather(1, own), entropies.gather(1, own)


class GroupTrainer(PolicyTrainer, GRPOTrainer):
    """Group relative policy optimisation."""

    def _generate(self, prompts: list[int]) -> tuple[Any, ...]:
        prompt_ids, self._completions = self.draw(prompts)
        drawn = self._drawn_logprobs if self.use_vllm else None
        return prompt_ids, self._completions, None, self._completions, drawn, {}, None, []


class LeaveOneOutTrainer(PolicyTrainer, RLOOTrainer):
    """REINFORCE with the other completions of a prompt as the baseline."""

    def _generate(self, prompts: list[int]) -> tuple[Any, ...]:
        prompt_ids, self._completions = self.draw(prompts)
        return prompt_ids, self._completions, self._completions


def _no_reward(**_: Any) -> list[float]:
    """TRL wants a reward function; `_calculate_rewards` never calls it."""
    raise NotImplementedError
