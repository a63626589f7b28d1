"""The spaces of the literature, and generated ones."""
