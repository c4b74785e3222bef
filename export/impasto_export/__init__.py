"""The offline half of impasto: it exports graph skeletons, links bundles, imports and merges adapters.

    tracing      architecture → graph skeleton; the only folder that needs torch
    checkpoints  folders, shards, single files and the hub → configs, tensors, tokenizers, noise schedule
    adapters     LoRAs and their variants, bottleneck adapters, embeddings → the registry
    feedforward  style nets → bundle, their styles → the registry
    merging      adapters → a file of changed weights
    cli          the commands

The modules beside these folders are what they share: the architecture, skeletons (graphs/), the bundle's manifest.
`adapters.pickles` reads the tensors of a pickle, and nothing else of it, in a separate process.
"""
