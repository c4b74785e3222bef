"""impasto's server: any style, any mix, on any row of any batch, over a backbone compiled once."""
