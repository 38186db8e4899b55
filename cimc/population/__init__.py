"""Many chips: what a program comes to on dice, at settings and at times."""
