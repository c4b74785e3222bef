"""Diffusion models: a UNet over latents."""
