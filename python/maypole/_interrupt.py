"""The exception that interrupts the code of a request.

*Owns*: the class, unless the server has made it before this import. *Runs on*: any thread.
"""

from __future__ import annotations

import sys


class RequestTimeout(BaseException):
    """The request is past its deadline (`request_interrupt`).

    It is no `Exception`, as `KeyboardInterrupt` is none: `except Exception` of a loop that tries again does not keep the
    call alive.
    """

    __module__ = "maypole"


#: The module in which the server looks for the class. It is another one if the server needed the class first.
_KNOWN = sys.modules.setdefault("_maypole_interrupt", sys.modules[__name__])
globals()["RequestTimeout"] = _KNOWN.RequestTimeout
