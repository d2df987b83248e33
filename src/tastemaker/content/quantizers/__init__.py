"""Continuous item vectors to short tuples of discrete codes."""
