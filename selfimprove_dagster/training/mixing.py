"""General examples that are trained on beside those of a dataset, so that a model forgets less.

Rehearsal: a share of general examples in every batch keeps what the model could do before (Scialom et al., "Fine-tuned
Language Models are Continual Learners", arXiv 2205.12393, section 4, with one hundredth of the earlier examples).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import islice, pairwise

from selfimprove_dagster.training.run import BATCHES_PER_BUCKET, passes, plan_batches
from selfimprove_dagster.training.settings import TrainingSettings


def plan_mixed(
    lengths: Sequence[int], general: int, settings: TrainingSettings, seed: int
) -> list[list[int]]:
    """Like `plan_batches`, where the last `general` of the examples are general ones.

    They are `settings.mix_share` of every batch, rounded so that the share of all batches so far is as near to it as it
    can be. Both kinds are seen in shuffled passes of their own.
    """
    if not general:
        return plan_batches(lengths, settings, seed)
    share, size = settings.mix_share or 0.0, settings.batch_size
    wanted = settings.steps * settings.gradient_accumulation
    due = [round(share * size * number) for number in range(wanted + 1)]
    mixed = [after - before for before, after in pairwise(due)]
    shuffler = random.Random(seed)
    own = len(lengths) - general
    of_dataset = iter(passes(own, wanted * size - due[-1], shuffler))
    of_general = iter([own + index for index in passes(general, due[-1], shuffler)])
    batches: list[list[int]] = []
    for start in range(0, wanted, BATCHES_PER_BUCKET):
        counts = mixed[start : start + BATCHES_PER_BUCKET]
        cut: list[list[int]] = [[] for _ in counts]
        for stream, sizes in ((of_dataset, [size - count for count in counts]), (of_general, counts)):
            taken = iter(sorted(islice(stream, sum(sizes)), key=lambda index: lengths[index]))
            for batch, part in zip(cut, sizes, strict=True):
                batch += islice(taken, part)
        shuffler.shuffle(cut)
        batches += cut
    return batches
