"""Embeddings that are to be cut: whether their prefixes keep the quality."""
