"""Convolutions and pools as bilinear primitives with a formulation for each platform."""
