"""Scoring: how well pictures fit a text, or one another."""
