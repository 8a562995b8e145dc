"""A model that teaches itself to call tools."""
