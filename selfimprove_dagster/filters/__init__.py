"""Filter candidates: rows in, decisions out.

A filter is a function from a frame of candidates to a frame with one decision per candidate (`candidate_id,
rule, kept, score, threshold, reason, nearest_id`). `apply_filters` runs several in order; a candidate that
one filter drops does not reach the next.
"""

from selfimprove_dagster.filters.rules import Filter, apply_filters

__all__ = ["Filter", "apply_filters"]
