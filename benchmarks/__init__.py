"""How fast the suite is, beside its limit and its peers, in one run on one machine."""
