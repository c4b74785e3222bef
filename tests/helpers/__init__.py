"""What tests share: toy bundles, checkpoints, stand-ins, waiting."""
