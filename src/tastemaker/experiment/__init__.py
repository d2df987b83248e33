"""Runs on disk: training into them, asking them, comparing, tuning and reporting on them."""
