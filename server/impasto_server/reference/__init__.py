"""What is written from the table of fields: Triton's configuration, the wire reference and the client's own table."""
