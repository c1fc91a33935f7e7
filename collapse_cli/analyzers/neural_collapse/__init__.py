"""Whether the samples of a class have shrunk onto their mean, and how class means and the head stand."""
