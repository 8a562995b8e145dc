"""Answers that get better while they are given."""
