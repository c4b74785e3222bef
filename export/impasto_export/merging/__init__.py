"""Merge adapters into weights: read the mix, compute each weight's change, write the file of changed weights."""
