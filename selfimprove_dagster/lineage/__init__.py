"""Answer questions about a training set: where a record comes from, why it was kept, what descends from it.

`walk` reads the edges that are stored in the rows. Everything else in this package is built on it.
"""
