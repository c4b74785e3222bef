"""Architecture to graph skeleton, checkpoint to bundle, foreign adapter to impasto adapter.

Only `graphs` needs torch, and the process of its own in which `pickles` opens one; everything else runs without it.
"""
