"""Modules that cannot be served."""
