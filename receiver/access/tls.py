"""TLS and mutual TLS for every listener, from files that may change while the daemon runs.

Certificates are renewed by somebody else, in place, while connections are open. So the files are read again on request (SIGHUP) and
when they changed; a new handshake meets the new files, a connection that stands is left alone. Files that cannot be used are reported
and the ones before stay in force: a renewal that went wrong must not take the listener down.
"""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import grpc

from receiver.errors import ReceiverError

if TYPE_CHECKING:
    from pathlib import Path

logger = logging.getLogger(__name__)

#: How often a file that changes while it is being read is read again before it counts as unusable.
READ_ATTEMPTS: Final = 3


class UnusableCertificate(ReceiverError):
    """Certificate, key or client CA cannot be read or do not fit; the message names the files and the cause."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the PEM files are."""

    certificate: Path  #: the server's certificate, its intermediates after it
    key: Path  #: its private key, without passphrase
    client_ca: Path | None = None  #: set: mutual TLS, a client must show a certificate that one of these CAs signed

    @property
    def all(self) -> list[Path]:
        """Every file that is watched."""
        return [self.certificate, self.key] + ([self.client_ca] if self.client_ca is not None else [])


@dataclass(frozen=True, slots=True)
class _Material:
    """One consistent reading of the files."""

    certificate: bytes
    key: bytes
    client_ca: bytes | None
    context: ssl.SSLContext


class Tls:
    """The server side of TLS for one set of files, given to any number of listeners. The constructor raises UnusableCertificate."""

    def __init__(self, files: TlsFiles) -> None:
        self._files = files
        self._seen = _stamps(files)
        self._material = _read(files)
        self._fallback = self._material.context  # what asyncio holds on to for the life of its listener
        self._fallback.sni_callback = self._choose

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """For asyncio listeners. It stays the same object; each handshake is moved to the newest files."""
        return self._fallback

    def grpc_credentials(self) -> grpc.ServerCredentials:
        """For one gRPC server; its handshakes ask for the newest files (from gRPC's own threads)."""
        given = self._material

        def newest() -> grpc.ServerCertificateConfiguration | None:
            nonlocal given
            material = self._material
            if material is given:
                return None  # unchanged since the last handshake (documented for this callback)
            given = material
            return _grpc_configuration(material)

        return grpc.dynamic_ssl_server_credentials(
            _grpc_configuration(given),
            newest,  # type: ignore[arg-type]  # the stub forgets the documented None
            require_client_authentication=self._files.client_ca is not None,
        )

    def reload(self) -> bool:
        """Read the files again. False, with a log line, when they cannot be used: the ones before stay in force."""
        self._seen = _stamps(self._files)
        try:
            self._material = _read(self._files)
        except UnusableCertificate as error:
            logger.error("the TLS files were not reloaded, the ones before stay in force: %s", error)  # noqa: TRY400 -- the sentence is the cause
            return False
        logger.info("TLS files reloaded: %s", ", ".join(map(str, self._files.all)))
        return True

    def reload_if_changed(self) -> bool:
        """Reload when a file is another than at the last look (a few stat calls: call it on a timer); True when that was done."""
        return _stamps(self._files) != self._seen and self.reload()

    def _choose(self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _context: ssl.SSLContext) -> None:
        """Called at each ClientHello, with or without a server name in it."""
        newest = self._material.context
        if newest is not self._fallback:
            connection.context = newest


def _read(files: TlsFiles) -> _Material:
    for _ in range(READ_ATTEMPTS):
        before = _stamps(files)
        try:
            context = _server_context(files)
            certificate, key = files.certificate.read_bytes(), files.key.read_bytes()
            client_ca = None if files.client_ca is None else files.client_ca.read_bytes()
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            names = ", ".join(dict.fromkeys(map(str, files.all)))
            raise UnusableCertificate(f"cannot use the TLS files {names}: {_cause(error)}") from error
        if _stamps(files) == before:  # else a renewal was under way: certificate and key may be of two pairs
            return _Material(certificate, key, client_ca, context)
    raise UnusableCertificate(f"the TLS files {', '.join(map(str, files.all))} change while they are read: try again")


def _server_context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    # A ticket would carry a client past the check of its certificate after the CA was replaced.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    context.load_cert_chain(files.certificate, files.key, password=_no_passphrase)
    if files.client_ca is not None:
        context.load_verify_locations(cafile=files.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def _no_passphrase() -> str:
    """Instead of OpenSSL's prompt on the terminal, on which a daemon would wait forever."""
    raise ValueError("the private key has a passphrase: store it without one, readable by the daemon's user only")


def _grpc_configuration(material: _Material) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration([(material.key, material.certificate)], root_certificates=material.client_ca)


def _stamps(files: TlsFiles) -> list[tuple[int, int, int] | None]:
    """What tells one version of a file from the next; a missing file has none. Symbolic links are followed (Kubernetes swaps them)."""
    stamps: list[tuple[int, int, int] | None] = []
    for path in files.all:
        try:
            found = path.stat()
        except OSError:
            stamps.append(None)
        else:
            stamps.append((found.st_ino, found.st_mtime_ns, found.st_size))
    return stamps


def _cause(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return f"{error.reason or error}: they must be PEM, and the key must belong to the certificate"
    if isinstance(error, OSError):
        return f"{error.strerror or error}" + (f" ({error.filename})" if error.filename else "")
    return str(error)
