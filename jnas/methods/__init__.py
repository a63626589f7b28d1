"""Recipes: settings in, a run folder out."""
