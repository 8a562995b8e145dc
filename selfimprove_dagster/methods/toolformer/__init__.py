"""Toolformer: a model teaches itself to call tools (Schick et al., 2302.04761).

calls       the text form of a call: writing, reading, interleaving
prompts     the prompt by which a model annotates a text with calls
positions   where in a text calls are sampled
loss        the weighted loss of what follows a call, and the three prefixes compared
rules       which calls are kept, and why
"""
