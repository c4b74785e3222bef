"""What backbones of a kind have in common: a folder for each."""
