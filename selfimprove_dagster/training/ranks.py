"""The processes that train one model together, its ranks: which one this is, and what they tell each other.

Rank 0 has the lock, the folders, the log and the rollouts; the others only train. Outside of `together` there is one
rank, and each function here returns what that one has.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

from selfimprove_dagster.errors import TrainingError

T = TypeVar("T")

LIMIT = timedelta(hours=6)
"""Time that ranks wait for each other, such as for the rewards of one of them. A rank that ended ends the others."""


def started() -> int:
    """Return the number of ranks that torchrun or Ray Train started; 1 in a process that neither started."""
    return int(os.environ["WORLD_SIZE"]) if "LOCAL_RANK" in os.environ else 1


def is_first() -> bool:
    """Return whether this is rank 0."""
    return started() == 1 or os.environ["RANK"] == "0"


def use_own_gpu() -> None:
    """Make the GPU of this rank's number on its node the one that `cuda` denotes, where there are GPUs.

    Raises TrainingError where the node has fewer GPUs than ranks.
    """
    import torch

    if started() > 1 and torch.cuda.is_available():
        own, count = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if own >= count:
            raise TrainingError(
                f"{os.environ['LOCAL_WORLD_SIZE']} processes were started on a node with {count} GPUs. Set "
                f"launch.processes to {count} or less, or the device to cpu."
            )
        torch.cuda.set_device(own)


def backend(on_cpu: bool) -> str:
    """Return the name of what carries tensors between ranks, for `torch.distributed`."""
    return "gloo" if on_cpu else "cuda:nccl,cpu:gloo"


@contextmanager
def together(wanted: int, on_cpu: bool) -> Iterator[None]:
    """Within, the ranks can tell each other something.

    Raises TrainingError where other than `wanted` ranks were started.
    """
    import torch.distributed as distributed

    if (found := started()) != wanted:
        raise TrainingError(
            f"{found} {'process trains' if found == 1 else 'processes train'}, and the settings ask for {wanted} "
            "(launch.processes × launch.nodes). Start as many, as launching.launch does with torchrun."
        )
    if wanted == 1 or distributed.is_initialized():
        yield
        return
    if not on_cpu:
        use_own_gpu()
    distributed.init_process_group(backend(on_cpu), timeout=LIMIT)
    yield
    # After an error the others may wait for this rank: it ends, and with it they do.
    distributed.destroy_process_group()


def agreed(find: Callable[[], T]) -> T:
    """Return what `find` returns on rank 0, to all ranks."""
    found = [find() if is_first() else None]
    if started() > 1:
        import torch

        torch.distributed.broadcast_object_list(found, device=torch.device("cpu"))
    return found[0]  # type: ignore[return-value]


def gathered(items: Sequence[T]) -> list[T]:
    """Return the items of all ranks, in the order of the ranks."""
    if started() == 1:
        return [*items]
    import torch.distributed as distributed

    parts: list[Any] = [None] * started()
    distributed.all_gather_object(parts, [*items])
    return [item for part in parts for item in part]


def wait() -> None:
    """Wait until all ranks are here."""
    gathered(())


def own_part(parameter: Any) -> Any:
    """Return the part of a parameter that this rank has, all of it unless it is sharded."""
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


def whole_weights(model: Any) -> dict[str, Any] | None:
    """Return the weights of a sharded model by name on rank 0, an empty dict on others; None where it is not sharded.

    All ranks have to call it.
    """
    if not any(hasattr(parameter, "to_local") for parameter in model.parameters()):
        return None
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    whole = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    # A weight that is tied to another is in the file once, under its first name.
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    tied -= {name for name, _ in model.named_parameters()}
    return {name: weight for name, weight in whole.items() if name not in tied}
