"""Adapters for frameworks: one module for each, which imports that framework."""
