"""Named procedural looks: a photograph in, the same photograph as fire, bricks, ink … out; and words for each."""
