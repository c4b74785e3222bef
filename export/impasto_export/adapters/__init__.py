"""Foreign adapters and embeddings to impasto's formats, and the registry that they are kept in."""
