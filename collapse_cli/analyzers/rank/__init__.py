"""How many directions the features of a dump use, and how evenly."""
