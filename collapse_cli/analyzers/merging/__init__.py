"""Whether several models can be averaged, matched or joined."""
