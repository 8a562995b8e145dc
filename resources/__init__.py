"""Dagster resources: thin wrappers that give assets what the library offers."""

from selfimprove_dagster.resources.home import HomeResource
from selfimprove_dagster.resources.language_model import LanguageModelResource
from selfimprove_dagster.resources.trainer import TrainerResource

__all__ = ["HomeResource", "LanguageModelResource", "TrainerResource"]
