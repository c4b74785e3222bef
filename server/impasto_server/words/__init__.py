"""Prompts: from text to the embeds that a backbone takes."""
