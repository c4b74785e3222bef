"""A family of its own: `tint` has no words and one step, and is served by this folder and its entry in FAMILIES."""
