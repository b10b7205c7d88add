"""Extract accounts from the API into the raw tables."""
