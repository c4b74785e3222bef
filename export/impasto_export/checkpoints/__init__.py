"""A checkpoint wherever it is read from: folders, shards, single files, the hub; its tokenizers, its schedule."""
