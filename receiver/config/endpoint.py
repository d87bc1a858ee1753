"""`host:port` as the listeners take it, and what "off loopback" means."""

from __future__ import annotations

import ipaddress
from typing import Final, NamedTuple

#: Loopback by standard, whatever a resolver says (RFC 6761 section 6.3); listeners bind 127.0.0.1 and ::1 for it.
_LOOPBACK_NAME: Final = "localhost"


class Endpoint(NamedTuple):
    """Where a listener listens. Port 0 lets the system choose one."""

    host: str  #: a name, an IPv4 or an IPv6 address without brackets
    port: int

    @property
    def is_loopback(self) -> bool:
        """Only this machine reaches it. An unknown name counts as reachable from outside."""
        return is_loopback(self.host)

    @property
    def is_wildcard(self) -> bool:
        """Every address of the machine."""
        address = ip_address(self.host)
        return address is not None and address.is_unspecified

    def meets(self, other: Endpoint) -> bool:
        """Both cannot listen at once: same port, and addresses that overlap."""
        if self.port != other.port or self.port == 0:
            return False
        if self.host == other.host or self.is_wildcard or other.is_wildcard:
            return True
        both_addresses = ip_address(self.host) is not None and ip_address(other.host) is not None
        return not both_addresses and self.is_loopback and other.is_loopback  # "localhost" is 127.0.0.1 and ::1

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_endpoint(text: str) -> Endpoint:
    """`localhost:4317`, `0.0.0.0:4317`, `[::1]:4317`; the host must be said, for a bare `:4317` would open every address unsaid.

    Raises:
        ValueError: it is no endpoint.

    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65_535:
        raise ValueError(text)
    if host.startswith("[") and host.endswith("]"):
        host = str(ipaddress.IPv6Address(host[1:-1]))
    elif ":" in host:
        raise ValueError(text)  # an IPv6 address needs its brackets, else nobody can tell where the port begins
    if any(c.isspace() or c in "/@?#[]" for c in host):
        raise ValueError(text)
    return Endpoint(host.lower(), int(port))


def ip_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address that a host is written as, None for a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """`localhost` or a loopback address."""
    name = host.lower().removesuffix(".")
    address = ip_address(name)
    if address is not None:
        return address.is_loopback
    return name == _LOOPBACK_NAME
