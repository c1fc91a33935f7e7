"""What an ordered run of checkpoints, dumps or reports says."""
