"""The address of the service: bound first of all, so that a port in use is said before anything is fetched."""

import errno
import socket


class CannotStart(Exception):
    """The service cannot begin; the text says why and what would be right."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def bind(host: str, port: int) -> socket.socket:
    """Return a socket that holds the address; it does not listen yet. Raises CannotStart."""
    shown = f"{host}:{port}"
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        text = f"cannot listen on {shown}: {host!r} is not a name or address that is known here"
        raise CannotStart("BadHost", text) from error
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        why = {
            "EADDRINUSE": ("PortInUse", "another process listens there; choose another --port"),
            "EACCES": ("PortDenied", "not allowed; choose a --port of 1024 or above"),
            "EADDRNOTAVAIL": (
                "BadHost",
                "this machine does not have that address; choose another --host",
            ),
        }
        reason, text = why.get(
            errno.errorcode.get(error.errno or 0, ""),
            ("CannotListen", error.strerror or str(error)),
        )
        raise CannotStart(reason, f"cannot listen on {shown}: {text}") from error
    return listener
