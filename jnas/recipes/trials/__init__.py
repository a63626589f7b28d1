"""Search by trials."""
