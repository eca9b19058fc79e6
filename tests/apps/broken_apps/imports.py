"""Imports what is not there."""

import no_such_module_inside  # noqa: F401
