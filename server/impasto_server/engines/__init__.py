"""The engines, which run compiled graphs, and what they need to know about this machine."""
