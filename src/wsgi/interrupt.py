"""The exception that interrupts the code of a request.

Runs on: the thread that needs the class first. The server executes this file once per process.
"""


class RequestTimeout(BaseException):
    """The request is past its deadline (`--request-interrupt`).

    It is no `Exception`, as `KeyboardInterrupt` is none: `except Exception` of a loop that tries again does not keep the
    call alive.
    """

    __module__ = "maypole"
