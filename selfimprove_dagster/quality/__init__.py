"""Check the quality of tables with Great Expectations.

`common.py` defines the checks of every table; `questions.py`, `completions.py`, `dataset.py` and
`outcomes.py` define checks that many tables share. The others are in the folders of methods and families.
Each table lists its checks. Checks collect evidence with Polars. `expectations.py` passes it to Great
Expectations, which is imported only when a suite runs.
"""
