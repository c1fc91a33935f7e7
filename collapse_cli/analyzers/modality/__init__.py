"""Two modalities in one space: the gap between them, the structure they share, the hubs among them."""
