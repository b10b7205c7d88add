"""Erase, retain and pseudonymise people's data."""
