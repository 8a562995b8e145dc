"""A model that says which of two responses is better, and what tells whether it can be trusted."""
