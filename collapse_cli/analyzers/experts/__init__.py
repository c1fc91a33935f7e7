"""Mixtures of experts: whether the experts differ, and whether the router can choose them."""
