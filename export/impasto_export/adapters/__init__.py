"""Import foreign adapters and embeddings into impasto's formats, and keep them in a registry."""
