"""Three demonstrations elicit a fourth."""
