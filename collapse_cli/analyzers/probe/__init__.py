"""What a simple readout finds in the features: linear, nearest mean, nearest rows, layer by layer."""
