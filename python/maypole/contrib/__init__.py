"""What fits Maypole into a framework: one module each, which imports that framework."""
