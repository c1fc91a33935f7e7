"""Two or more augmentations of the same sample: do they agree, and is anything left that tells samples apart."""
