"""Every example behind wsgiref.validate: a violation becomes an AssertionError, so a 500 and a traceback."""

import importlib
import os
import sys
from wsgiref.validate import validator

sys.path.insert(0, os.environ["EXAMPLES"])
name, _, attribute = os.environ["EXAMPLE"].partition(":")
application = validator(getattr(importlib.import_module(name), attribute or "application"))
