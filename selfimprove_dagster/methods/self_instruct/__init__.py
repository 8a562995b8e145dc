"""A pool of tasks that the model itself extends."""
