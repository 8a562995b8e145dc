"""Provide Dagster resources, which are thin wrappers around the library."""

from selfimprove_dagster.resources.home import HomeResource
from selfimprove_dagster.resources.language_model import LanguageModelResource
from selfimprove_dagster.resources.trainer import TrainerResource

__all__ = ["HomeResource", "LanguageModelResource", "TrainerResource"]
