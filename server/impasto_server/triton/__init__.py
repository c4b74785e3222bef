"""The models for Triton's Python backend: the only modules that know it. Some import only in its stub process."""
