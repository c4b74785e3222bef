"""Fits of latent diffusion models: Stable Diffusion 1 and 2, SDXL, and what has their shape."""
