"""Is not Python."""

def (:
