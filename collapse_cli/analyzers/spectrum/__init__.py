"""The singular values of one weight: how many directions it has, how even they are, what in them is chance."""
