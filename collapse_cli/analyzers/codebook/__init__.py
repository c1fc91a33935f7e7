"""Codebooks of vector-quantised models."""
