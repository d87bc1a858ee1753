"""How a listener is called from outside."""

from __future__ import annotations

import socket

from receiver.config.check import listeners
from receiver.config.endpoint import Endpoint, parse_endpoint
from receiver.config.sections import Config


def base_url(config: Config, name: str, port: int) -> str:
    """`scheme://host:port` of a listener; one on every address is called by the first name that it may be called by."""
    listener = listeners(config)[name]
    endpoint = parse_endpoint(listener.endpoint)
    names = getattr(listener, "allowed_hosts", ()) or (socket.gethostname(),)
    host = names[0] if endpoint.is_wildcard else endpoint.host
    scheme = "https" if config.tls.cert_file and not listener.insecure else "http"
    return f"{scheme}://{Endpoint(host, port)}"
