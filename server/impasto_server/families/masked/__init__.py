"""The family of masked transformers, which predict masked tokens."""
