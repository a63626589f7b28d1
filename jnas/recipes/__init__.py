"""Recipes: settings in, a run folder out.

Each has a sub-package of its own, and none imports another: what two of them share stands here.
"""
