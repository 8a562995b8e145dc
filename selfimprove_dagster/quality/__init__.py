"""Quality checks: what must hold of each table, judged by Great Expectations.

`suites.py` says what is checked of which table; `common.py`, `questions.py`, `paths.py`, `votes.py`,
`tasks.py`, `tools.py`, `dialogues.py`, `judging.py`, `dataset.py` and `outcomes.py` gather the evidence with
Polars; `expectations.py` hands it to Great Expectations, which is imported only when a suite runs.
"""
