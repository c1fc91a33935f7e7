"""Analyzers of what stands at the ends of a model: class vectors and embedding tables."""
