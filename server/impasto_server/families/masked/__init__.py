"""Masked transformers: tokens that are uncovered."""
