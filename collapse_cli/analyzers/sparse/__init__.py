"""Analyzers of units that fire or do not: sparse autoencoders and rectified layers."""
