"""A model that criticises and revises itself by principles."""
