"""impasto's server: the backbone is compiled once, and each row of a batch may run under any mix of adapters."""
