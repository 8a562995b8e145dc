"""Quality checks: what must hold of each table, judged by Great Expectations.

`common.py` has the checks of every table; `questions.py`, `completions.py`, `dataset.py` and `outcomes.py` those that
many tables share. The others are in the folders of methods and families, and each table names its own. Checks gather
evidence with Polars; `expectations.py` hands it to Great Expectations, which is imported only when a suite runs.
"""
