"""The only modules that know Triton's Python backend; they import inside its stub process."""
