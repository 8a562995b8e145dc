"""Fine-tuning with FSDP2's `fully_shard` over gloo, which the trainers of TRL use on GPUs only."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from kit.ranked_jobs import SETTINGS, examples
from selfimprove_dagster.training import ranks
from selfimprove_dagster.training.completion_trainer import IGNORED, ExampleCollator
from selfimprove_dagster.training.folders import DETERMINANTS, write_json
from selfimprove_dagster.training.run import Run, load, plan_batches, write
from selfimprove_dagster.training.settings import Launch


def fine_tune_sharded(*, base: str, output: str, processes: int) -> list[dict[str, float]]:
    """The log of a fine-tuning by so many ranks; the weights are shared out where there are several."""
    import torch
    from torch.distributed import device_mesh, fsdp
    from torch.nn import functional

    settings = replace(SETTINGS["supervised"], gradient_accumulation=1, launch=Launch(processes))
    run = Run.of(base, Path(output), settings, seed=7, device="cpu", dtype="float32", trust_remote_code=False)
    rows, log = examples(), []
    with ranks.together(processes, on_cpu=True):
        model, _ = load(run)
        share = settings.batch_size // processes
        own = range(settings.batch_size)
        if processes > 1:
            rank = torch.distributed.get_rank()
            own = range(rank * share, (rank + 1) * share)
            mesh = device_mesh.init_device_mesh("cpu", (processes,))
            for layer in model.model.layers:
                fsdp.fully_shard(layer, mesh=mesh)
            fsdp.fully_shard(model, mesh=mesh)
        optimizer = torch.optim.AdamW(model.parameters(), lr=settings.learning_rate)
        collate = ExampleCollator(rows)
        for step, batch in enumerate(plan_batches([row.length for row in rows], settings, run.seed), 1):
            tokens = sum(len(rows[index].completion_token_ids) for index in batch)
            inputs = collate([{"row": batch[place]} for place in own])
            logits = model(input_ids=inputs["input_ids"], use_cache=False).logits[:, :-1]
            targets = inputs["labels"][:, 1:]
            total = functional.cross_entropy(
                logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
            )
            (total * processes / tokens).backward()
            norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            loss = math.fsum(ranks.gathered([total.item()])) / tokens
            log.append({"step": float(step), "loss": loss, "grad_norm": _whole(norm)})
        assert all(torch.isfinite(ranks.own_part(one)).all() for one in model.parameters())
        sharded = sum(ranks.own_part(one).numel() for one in model.parameters())
        if ranks.is_first():
            run.partial.mkdir()
            write_json(run.partial / DETERMINANTS, {})
        ranks.wait()
        finished = write(run, model, {"log": log}, loss="loss")
        assert (finished is None) == (not ranks.is_first())
    return [*log, {"parameters": float(sharded)}]


def _whole(value: Any) -> float:
    return float(value.full_tensor() if hasattr(value, "full_tensor") else value)
