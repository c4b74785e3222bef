"""Architecture to graph skeleton, checkpoint to bundle, foreign adapter to impasto adapter.

    tracing      architecture → graph skeleton; the only folder that needs torch
    checkpoints  folders, shards, single files and the hub → configs, tensors, tokenizers, noise schedule
    adapters     foreign LoRAs and their kin, bottleneck adapters and embeddings → the registry
    merging      adapters → one more file of changed weights
    cli          what of all this is a command

What lies beside them is what they meet in: an architecture's description, skeletons (graphs/), the bundle's manifest.
`adapters.pickles` opens a pickle, tensors alone, in a process of its own.
"""
