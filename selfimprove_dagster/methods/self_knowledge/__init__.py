"""Whether a model can judge itself."""
