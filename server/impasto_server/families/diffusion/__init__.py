"""The family of diffusion models: a UNet over latents."""
