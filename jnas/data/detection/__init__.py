"""Photos with boxes."""
