"""Saved optimizer state: whether the optimizer can still move every weight."""
