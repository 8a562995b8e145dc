"""Every error that a person can act on.

    SelfImproveError
    ├── MethodError              a method's declaration is wrong, or there is no such method
    ├── ExperimentError          an experiment file is wrong: names the field and what is allowed
    ├── SeedFileError            a seed file as a whole cannot be read
    ├── ReviewError              there is nothing to review, or what a person said cannot be taken
    ├── ModelError               a model is missing, or not of the kind that was asked for
    │   └── ModelUnavailable     its server does not answer: what failed is no fault of what was asked
    ├── TrainingError            training failed or gave a loss that is not finite
    ├── JudgeNotTrusted          a model is to judge that was measured to pick no better than by lot
    ├── BudgetSpent              a budget of the experiment is spent in the middle of an iteration
    └── LakeError
        ├── PartitionMissing     nothing is committed there yet
        ├── PartitionBusy        another process is writing it
        ├── GateClosed           its last blocking check failed
        ├── LakeNotWritable      disk full or read-only
        └── RevocationError      what was named cannot be revoked, restored or purged

Messages say what was wrong, where, and what to do about it.
"""

from __future__ import annotations


class SelfImproveError(Exception):
    """Base of all errors that this library raises on purpose."""


class MethodError(SelfImproveError):
    """A method cannot be loaded, or there is none of that name."""


class ExperimentError(SelfImproveError):
    """An experiment file is wrong."""


class SeedFileError(SelfImproveError):
    """A seed or evaluation file cannot be read at all."""


class ReviewError(SelfImproveError):
    """Nothing is there to review, or a label, a name or a folder cannot be used."""


class ModelError(SelfImproveError):
    """A model is missing or unusable."""


class ModelUnavailable(ModelError):
    """The server of a model does not answer."""


class TrainingError(SelfImproveError):
    """Training failed, or its loss is not a number."""


class JudgeNotTrusted(SelfImproveError):
    """What was measured of a model's judgement does not let it judge."""


class BudgetSpent(SelfImproveError):
    """A stage stopped between two shards; those before are kept."""


class LakeError(SelfImproveError):
    """The lake cannot do what it was asked."""


class PartitionMissing(LakeError):
    """No manifest: the partition has not been committed."""


class PartitionBusy(LakeError):
    """Another process holds the partition's lock."""


class GateClosed(LakeError):
    """The partition's last blocking check failed, so it is not handed on."""


class LakeNotWritable(LakeError):
    """The file system refused a write."""


class RevocationError(LakeError):
    """Nothing answers to what was to be revoked, or it cannot be undone."""


def first_line(error: Exception) -> str:
    """What a library's error says first, for a message of one line."""
    return str(error).strip().partition("\n")[0]
