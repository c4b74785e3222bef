"""Read checkpoints from folders, shards, single files and the hub, with their tokenizers and noise schedules."""
