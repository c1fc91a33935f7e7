"""What the logits of a classifier or language model say: precision, scale, calibration, answers."""
