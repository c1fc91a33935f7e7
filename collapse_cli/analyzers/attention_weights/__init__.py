"""Analyzers of the attention maps that the weights alone make."""
