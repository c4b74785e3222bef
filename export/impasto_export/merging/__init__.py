"""Adapters into weights: the mixes, what each makes of a weight, and the file of all that changes."""
