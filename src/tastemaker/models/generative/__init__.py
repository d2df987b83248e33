"""Generative retrieval: the next item is written code by code."""
