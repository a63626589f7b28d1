"""Architecture and bit widths searched together."""
