"""Derived tables of one day, made from its raw tables."""
