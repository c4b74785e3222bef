"""Adapters: from names in a registry to pages of a bank that graphs read."""
