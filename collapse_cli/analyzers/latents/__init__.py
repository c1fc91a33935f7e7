"""Analyzers of latent variables: posteriors of autoencoders and world models."""
