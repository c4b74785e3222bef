"""The embedded default: recipes, and the small models and styles that they trained."""
