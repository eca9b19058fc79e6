from collections.abc import Callable
from typing import Any, final

from typing_extensions import disjoint_base

__all__ = [
    "DURATION_SECONDS_MAX",
    "HEAD_BYTES_MAX",
    "HOST_DEFAULT",
    "OBJECT",
    "PORT_DEFAULT",
    "THREADS_DEFAULT",
    "THREADS_MAX",
    "AccessEntry",
    "Pool",
    "Server",
    "__version__",
    "check_application",
    "check_settings",
    "main",
    "on_executor",
    "patched_by",
    "remove_stale_socket",
    "serve",
    "settings",
    "shut_down",
]
__version__: str

#: What stands for an application that is an object in the settings.
OBJECT: str

# Defaults and limits of settings.
HOST_DEFAULT: str
PORT_DEFAULT: int
THREADS_DEFAULT: int
THREADS_MAX: int
#: The maximum of the setting `limit_request_head`.
HEAD_BYTES_MAX: int
#: The longest duration that a setting takes.
DURATION_SECONDS_MAX: int

@final
class AccessEntry:
    """One finished request, the argument of `on_access`."""

    @property
    def client_ip(self) -> str:
        """The client's address; empty for a unix socket."""
    @property
    def client_port(self) -> int:
        """The client's port; 0 for a unix socket."""
    @property
    def request_line(self) -> str:
        """The request line as the client sent it: "GET /cart?page=2 HTTP/1.1"."""
    @property
    def method(self) -> str:
        """The method: "GET"."""
    @property
    def path(self) -> str:
        """The path as the client sent it: "/cart"."""
    @property
    def query(self) -> str:
        """The query string without "?": "page=2"."""
    @property
    def protocol(self) -> str:
        """The client's version of HTTP: "HTTP/1.1"."""
    @property
    def request_id(self) -> str | None:
        """The request's id; None without the setting `request_id_header`."""
    @property
    def status(self) -> int:
        """The status of the response."""
    @property
    def complete(self) -> bool:
        """Whether the whole response was sent."""
    @property
    def body_bytes(self) -> int:
        """The number of sent bytes of the response's body, without framing."""
    @property
    def wire_bytes(self) -> int:
        """The number of all sent bytes, head and framing included."""
    @property
    def duration(self) -> float:
        """Seconds from the request's first byte to the response's last."""
    @property
    def application_seconds(self) -> float:
        """Seconds inside the application."""

    @property
    def suspended_seconds(self) -> float:
        """Seconds for which the response was suspended."""
    @property
    def ended(self) -> float:
        """The time at which the request ended, in seconds since 1970."""
    @property
    def forwarded_for(self) -> str | None:
        """The value of X-Forwarded-For, or None. Characters that are not printable ASCII are escaped."""

@disjoint_base
class Pool:
    """A pool: at most `size` requests of its servers are in progress at once. Pass it to several servers as `pool=`."""

    def __init__(self, size: int = ...) -> None: ...
    @property
    def size(self) -> int:
        """The maximum number of requests in progress."""
    def resize(self, new_size: int) -> None:
        """Changes the size. With 0, no new request gets a place. Requests in progress keep their places."""
    def running(self) -> int:
        """Returns how many places are taken."""
    def free(self) -> int:
        """Returns how many places are free."""
    def waitall(self, timeout: float | None = None) -> bool:
        """Waits until no place is taken, at most `timeout` seconds. Returns whether none is taken."""

@final
class Server:
    def __new__(
        cls,
        application: Any,
        sockets: list[int],
        settings: list[tuple[str, list[str]]],
        pool: Pool | None = None,
        environ: dict[str, Any] | None = None,
        on_access: Callable[[AccessEntry], object] | None = None,
        headers_raw: bool = False,
        mounts: list[tuple[str, Any]] = ...,
    ) -> Server: ...
    def start(self) -> None: ...
    def stop(self, timeout: float | None, who: str) -> bool: ...
    def wait(self, timeout: float | None = None) -> bool: ...
    def close(self) -> None: ...
    def reset(self) -> None: ...
    @property
    def state(self) -> str: ...
    @property
    def filenos(self) -> list[int]: ...
    @property
    def addresses(self) -> list[str]: ...
    @property
    def hosts(self) -> list[tuple[str, int]]: ...
    @property
    def settings(self) -> list[tuple[str, str]]: ...
    def stats(self) -> dict[str, Any]: ...
    def report(self) -> str: ...

def main(argv: list[str]) -> int: ...
def serve(
    application: Any | None,
    name: str | None,
    settings: list[tuple[str, list[str]]],
    environ: dict[str, Any] | None = None,
    mounts: list[tuple[str, Any]] = ...,
) -> int: ...
def settings() -> list[tuple[str, str, str]]: ...
def check_application(application: Any) -> None: ...
def check_settings(settings: list[tuple[str, list[str]]]) -> bool: ...
def shut_down(seconds: float) -> None: ...
def patched_by() -> tuple[str, str] | None: ...
def on_executor() -> bool: ...
def remove_stale_socket(path: str) -> None: ...
