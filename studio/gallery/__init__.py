"""Real photographs and paintings, from packages of distributions; nothing of them is in the repository."""
