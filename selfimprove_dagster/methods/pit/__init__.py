"""Improvement learnt from preferences."""
