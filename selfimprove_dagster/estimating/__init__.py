"""Forecast what an iteration takes: from finished stages with the same settings, or from a pilot."""
