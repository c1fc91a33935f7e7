"""How classes lie to one another in the features: pairs of rows, thresholds, subspaces."""
