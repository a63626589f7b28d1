"""Search in two stages over groups of operators."""
