"""Feedback of people, the baseline."""
