"""Fits of masked-token models: aMUSEd, and models of two stages as Muse is."""
