"""Prompts: from text to what a backbone is told."""
