"""Parse the names of experiments, of their turns in a chain, and of their iterations."""

from __future__ import annotations

import re

from selfimprove_dagster.errors import ExperimentError

NAME_PATTERN = r"^[a-z][a-z0-9_]{0,39}$"


PARTITION_KEY = re.compile(r"^(?P<experiment>[a-z][a-z0-9_]{0,39})-(?P<iteration>[0-9]{3})$")


def split_turn(name: str) -> tuple[str, str | None]:
    """Return the experiment's name and, for `<name>.<method>`, the method of a chain."""
    experiment, _, method = name.partition(".")
    return experiment, method or None


def experiment_of_key(partition_key: str) -> tuple[str, int]:
    """Return experiment name and iteration of a partition key. Raises ExperimentError for any other text."""
    match = PARTITION_KEY.fullmatch(partition_key)
    if not match:
        raise ExperimentError(
            f"partition {partition_key!r} is not of the form <experiment>-<NNN>, e.g. demo-000"
        )
    return match["experiment"], int(match["iteration"])
