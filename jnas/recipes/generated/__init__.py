"""Search over generated search spaces."""
