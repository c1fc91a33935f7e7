"""Neurons and channels: dead ones, repeated ones, and the normalisation that scales them."""
