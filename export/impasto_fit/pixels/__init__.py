"""Fits in the eyes of a perceptual network: vectors of feed-forward nets, and single pictures."""
