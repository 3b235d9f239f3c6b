"""What the paper claims, and what a study says about it, in words that are fixed in advance."""
