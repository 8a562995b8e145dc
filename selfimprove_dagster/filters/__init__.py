"""The filters of self-improvement: rows in, decisions out.

A filter is a function from a frame of candidates to a frame with one decision a candidate
(`candidate_id, rule, kept, score, threshold, reason, nearest_id`). `apply` runs several in order; a
candidate that one drops does not reach the next.
"""

from selfimprove_dagster.filters.rules import Filter, apply_filters

__all__ = ["Filter", "apply_filters"]
