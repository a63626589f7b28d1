"""Fake quantisation with traced widths, integers, and what a network costs."""
