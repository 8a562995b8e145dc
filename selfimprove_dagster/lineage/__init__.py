"""Every question that a person has about a training set: where from, why, what came of it.

`walk` reads the edges that the rows themselves carry; everything else in this package asks it.
"""
