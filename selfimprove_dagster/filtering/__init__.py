"""Filters that an experiment lists under `filters`, by name and in their order.

`steps` are the filters, `registry` finds them by name, `settings` is the field of an experiment file, and `running`
applies them to the candidates of a dataset. The rules themselves are in `filters`.
"""

from selfimprove_dagster.filtering.steps import Step

__all__ = ["Step"]
