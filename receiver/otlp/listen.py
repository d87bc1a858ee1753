"""Where a listener listens: from an endpoint string to bound sockets, the same rule for all listeners of the house.

`localhost` means both 127.0.0.1 and ::1, whatever a hosts file says, since clients try either first. A port of 0 asks for any free
port, the same one on both. Ports are never shared: a second daemon on the same port fails loudly instead of taking half of the traffic.
"""

from __future__ import annotations

import errno
import socket
from typing import TYPE_CHECKING, Final, TypeVar

from receiver.config.endpoint import Endpoint, ip_address
from receiver.errors import ReceiverError

if TYPE_CHECKING:
    from collections.abc import Callable

#: How often another free port is tried when port 0 is free on one address of `localhost` and taken on the other.
PORT_ATTEMPTS: Final = 16
#: Connections that the kernel holds ready for us; Linux cuts it at net.core.somaxconn (4,096 by default).
BACKLOG: Final = 1_024
#: What bind() says where there is no IPv6, or no loopback address in it (containers often).
NO_SUCH_FAMILY: Final = frozenset({errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT})

Server = TypeVar("Server")


class CannotListen(ReceiverError):
    """An endpoint that cannot be bound; the message says which one and what to do."""


def addresses(endpoint: Endpoint) -> list[str]:
    """The IP addresses to bind, at least one. Resolves names (blocking: listeners start once). Raises CannotListen."""
    if endpoint.host == "localhost":
        return ["127.0.0.1", "::1"]
    address = ip_address(endpoint.host)
    if address is not None:
        return [str(address)]
    try:
        found = socket.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise CannotListen(f"cannot listen on {endpoint}: the name {endpoint.host!r} is not known here ({error})") from error
    return list(dict.fromkeys(str(each[0]) for *_, each in found))


def open_sockets(endpoint: Endpoint) -> list[socket.socket]:
    """Listening TCP sockets for every address of `endpoint`, all on one port, or CannotListen with nothing left open."""
    return with_ports(endpoint, _bind_all)


def reserve_port(endpoint: Endpoint) -> tuple[list[str], int]:
    """The addresses of `endpoint` that exist here and a port that is free on all of them.

    For a server that binds by itself (gRPC's): what is free is found with sockets of ours, which are closed again. Another process
    may take the port in between; the server's own bind then fails, as it does for any taken port.
    """
    sockets = open_sockets(endpoint)
    try:
        return [each.getsockname()[0] for each in sockets], int(sockets[0].getsockname()[1])
    finally:
        close_all(sockets)


def with_ports(endpoint: Endpoint, bind: Callable[[Endpoint], Server]) -> Server:
    """Call `bind` until it has found one port for all addresses; tried again only where the port was ours to choose."""
    attempts = PORT_ATTEMPTS if endpoint.port == 0 else 1
    for left in range(attempts - 1, -1, -1):
        try:
            return bind(endpoint)
        except OSError as error:
            if not left or error.errno != errno.EADDRINUSE:
                raise CannotListen(f"cannot listen on {endpoint}: {advice(error)}") from error
    raise AssertionError("unreachable: the last attempt returns or raises")


def close_all(sockets: list[socket.socket]) -> None:
    """Close what was opened."""
    for each in sockets:
        each.close()


def advice(error: OSError) -> str:
    """What the operator can do about a bind that failed."""
    if error.errno == errno.EADDRINUSE:
        return "the port is taken; stop the other program (another OpenTelemetry collector?) or set another endpoint"
    if error.errno == errno.EACCES:
        return "permission denied; ports below 1024 need privileges, set a port above"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address; set one of its own, or 0.0.0.0 for all"
    return f"{error.strerror or error}"


def _bind_all(endpoint: Endpoint) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    port = endpoint.port
    try:
        for address in addresses(endpoint):
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            try:
                each = _bind(family, address, port)
            except OSError as error:
                # localhost is what there is of it; an address that was asked for by itself must exist
                if endpoint.host == "localhost" and family == socket.AF_INET6 and sockets and error.errno in NO_SUCH_FAMILY:
                    continue
                raise
            sockets.append(each)
            port = each.getsockname()[1]
    except BaseException:
        close_all(sockets)
        raise
    return sockets


def _bind(family: int, address: str, port: int) -> socket.socket:
    each = socket.socket(family, socket.SOCK_STREAM)
    try:
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a restart must not wait for TIME_WAIT
        if family == socket.AF_INET6:
            each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if address == "::" else 1)  # [::] means every address
        each.bind((address, port))
        each.listen(BACKLOG)
        each.setblocking(False)
    except BaseException:
        each.close()
        raise
    return each
