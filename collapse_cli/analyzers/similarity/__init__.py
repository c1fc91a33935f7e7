"""Whether two representations, or the layers of one, are alike."""
