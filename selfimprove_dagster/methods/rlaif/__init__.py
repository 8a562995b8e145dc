"""Feedback of a model in place of people."""
