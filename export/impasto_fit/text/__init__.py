"""Styles from words: a CLIP says how far a painted picture is from what was asked for."""
