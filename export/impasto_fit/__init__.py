"""Fits: from pictures or words to a style as a file, by training a little of a checkpoint that stays as it is.

    recipe      the protocol: pictures and words in, the bytes of an adapter file out
    loop        the loop that every recipe trains in, which goes on where it was killed
    progress    who watches a fit: sees its loss and previews, keeps its state, may stop it

A recipe knows neither where its pictures come from nor where its file goes. Servers never import this package.
"""
