"""Generators from the code: Triton's configuration, the client's table, and tables and pages of docs/."""
