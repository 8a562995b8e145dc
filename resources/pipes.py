"""Hear the processes of a training by Dagster Pipes while they run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
from dagster_pipes import PipesParams


@contextmanager
def by_pipes(
    context: dg.AssetExecutionContext, file: Path, hear: Callable[[Any], None]
) -> Iterator[Mapping[str, str]]:
    """Open a session of Dagster Pipes over `file`, and yield the variables with which rank 0 finds it.

    `hear` is called with every custom message as it comes, in a thread. Lines for the log go to the step's log, and an
    exception that ends rank 0 becomes an event of the step.
    """
    with dg.open_pipes_session(
        context=context,
        context_injector=dg.PipesEnvContextInjector(),
        message_reader=_HearingReader(file, hear),
    ) as session:
        yield session.get_bootstrap_env_vars()


class _HearingReader(dg.PipesFileMessageReader):
    """Hands on custom messages at once; Dagster's own reader keeps them until the session ends."""

    def __init__(self, file: Path, hear: Callable[[Any], None]) -> None:
        super().__init__(str(file))
        self._hear = hear

    @contextmanager
    def read_messages(self, handler: Any) -> Iterator[PipesParams]:
        handle = handler.handle_message

        def hear_and_handle(message: Any) -> None:
            if message["method"] == "report_custom_message":
                self._hear(message["params"]["payload"])
            else:
                handle(message)

        handler.handle_message = hear_and_handle
        with super().read_messages(handler) as params:
            yield params
