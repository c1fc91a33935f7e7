"""Low-rank adapters: whether they use their rank and change anything."""
