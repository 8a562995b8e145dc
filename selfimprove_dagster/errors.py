"""Define every error that a person can act on.

    SelfImproveError
    ├── MethodError              a method's declaration is wrong, or there is no such method
    ├── ExperimentError          an experiment file is wrong: names the field and what is allowed
    ├── SeedFileError            a seed file cannot be read at all
    ├── PushError                the hub refuses what is pushed to it, or does not answer
    ├── ReviewError              there is nothing to review, or a label cannot be stored
    ├── ModelError               a model is missing, or of the wrong kind
    │   └── ModelUnavailable     its server does not answer, independently of the request
    ├── TrainingError            training failed or its loss was not finite
    │   └── RankKilled           one of the processes that train together was killed
    ├── JudgeNotTrusted          a model shall judge although it was measured to be no better than random
    ├── BudgetSpent              a budget of the experiment is spent during an iteration
    ├── TooManyFailed            more rows of a stage failed than the experiment tolerates
    │   └── TooManyUnanswered    those that failed last may succeed later: their server did not answer
    └── LakeError
        ├── PartitionMissing     nothing is committed there yet
        ├── PartitionBusy        another process is writing it
        ├── GateClosed           a blocking check of it failed
        ├── LakeNotWritable      disk full or read-only
        ├── StoreError           an object store cannot be a home, or does not offer something
        │   └── StoreUnavailable     it does not answer
        └── RevocationError      a revocation cannot be applied, lifted or purged

Messages state what is wrong, where, and what to do about it.
"""

from __future__ import annotations

from typing import ClassVar


class SelfImproveError(Exception):
    """Base of all errors that this library raises on purpose.

    `may_pass`: the same work may succeed later although nobody changes anything, so it is worth another attempt.
    """

    may_pass: ClassVar[bool] = False


class MethodError(SelfImproveError):
    """A method cannot be loaded, or does not exist."""


class ExperimentError(SelfImproveError):
    """An experiment file is wrong."""


class NotReadyYet(ExperimentError):
    """A server that an experiment needs does not answer; nothing else is wrong."""

    may_pass = True


class SeedFileError(SelfImproveError):
    """A seed or evaluation file cannot be read at all."""


class PushError(SelfImproveError):
    """The hub refused a push or does not answer, or there is no token for it."""


class ReviewError(SelfImproveError):
    """There is nothing to review, or a label, a name or a folder cannot be used."""


class ModelError(SelfImproveError):
    """A model is missing or unusable."""


class ModelUnavailable(ModelError):
    """The server of a model does not answer."""

    may_pass = True


class TrainingError(SelfImproveError):
    """Training failed, or its loss is not a number."""


class RankKilled(TrainingError):
    """A signal ended one of the processes that train together; the others were ended with it."""

    may_pass = True


class JudgeNotTrusted(SelfImproveError):
    """A model may not judge because of its measured judgement."""


class BudgetSpent(SelfImproveError):
    """A stage stopped between two shards; finished shards are kept."""


class TooManyFailed(SelfImproveError):
    """A stage stopped since too many of its rows could not be generated; finished shards are kept."""


class TooManyUnanswered(TooManyFailed):
    """A stage stopped since a server failed on too many of its rows; they are generated again on resuming."""

    may_pass = True


class LakeError(SelfImproveError):
    """An operation on the lake failed."""


class PartitionMissing(LakeError):
    """The partition has no manifest, i.e. it has not been committed."""


class PartitionBusy(LakeError):
    """Another process holds the partition's lock."""

    may_pass = True


class GateClosed(LakeError):
    """A blocking check of the partition failed, so later stages cannot read it."""


class LakeNotWritable(LakeError):
    """The file system refused a write."""


class StoreError(LakeError):
    """An object store cannot hold a home, or not this part of it."""


class StoreUnavailable(StoreError):
    """An object store does not answer."""

    may_pass = True


class RevocationError(LakeError):
    """There is nothing to revoke, or a revocation cannot be lifted."""


_PASSING = (ConnectionError, TimeoutError, MemoryError)
"""Errors of Python that say nothing about the work: of the network, and of memory that others use, too."""

_PASSING_NAMES = frozenset({"OutOfMemoryError", "TransportError", "ConnectionError", "Timeout"})
"""Classes of libraries that are not imported here: torch, httpx and requests."""


def may_pass(error: BaseException) -> bool:
    """Return whether the same work may succeed at another attempt, by the class of the error that ended it."""
    if isinstance(error, SelfImproveError):
        return error.may_pass
    return isinstance(error, _PASSING) or any(kind.__name__ in _PASSING_NAMES for kind in type(error).__mro__)


def first_line(error: Exception) -> str:
    """Return the first line of a library's error message."""
    return str(error).strip().partition("\n")[0]
