"""What discrete and soft codes are used for: vector-quantised indices, clusters, prototypes."""
