"""Runs model files without torch."""
