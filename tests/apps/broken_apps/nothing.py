"""Has no callable of a default name."""
