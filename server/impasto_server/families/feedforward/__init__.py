"""The family of feed-forward style nets: a photo in, a painting out, in one step or in tiles."""
