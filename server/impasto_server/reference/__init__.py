"""Generators from the table of fields: Triton's configuration, the wire reference and the client's table."""
