"""Self-consistency as a teacher."""
