"""The family of feed-forward style nets: a photo and a style's vector in, a painting out, in one pass."""
