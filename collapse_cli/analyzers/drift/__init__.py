"""What moved between two checkpoints or dumps, how far, and whether it should have."""
