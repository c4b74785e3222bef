"""Architecture to graph skeleton, checkpoint to bundle, foreign adapter to impasto adapter.

Only `graphs` needs torch; everything else runs without it.
"""
