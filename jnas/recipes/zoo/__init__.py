"""A zoo of trained networks, and the choice of one for new data."""
