"""TLS and mutual TLS on both OTLP listeners, and certificates that change while connections are open."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from receiver.access.tls import Tls, TlsFiles, UnusableCertificate
from tests.integration.wire_helpers import EXPORT, House, grpc_call, grpc_server, head, http_call, http_server, read_reply

if TYPE_CHECKING:
    from pathlib import Path

NOW = dt.datetime.now(dt.UTC)
DAY = dt.timedelta(days=1)


@dataclass
class Pair:
    """A certificate and its key, in memory."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def issue(name: str, issuer: Pair | None = None, *, ends: dt.datetime = NOW + DAY, san: str = "localhost") -> Pair:
    """A certificate authority (no issuer), or a certificate that it signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - 3 * DAY)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if issuer is None:
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, critical=True)
    else:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(san)]), critical=False)
        builder = builder.add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.key.public_key()), critical=False)
    return Pair(builder.sign(issuer.key if issuer else key, hashes.SHA256()), key)


CA = issue("a CA")
OTHER_CA = issue("another CA")
SERVER = issue("server", CA)
CLIENT = issue("client", CA)
STRANGER = issue("stranger", OTHER_CA)


def store(folder: Path, server: Pair, client_ca: Pair | None = None) -> TlsFiles:
    """Write the files as a renewal does: each replaced whole."""
    contents = {"server.crt": server.pem, "server.key": server.key_pem}
    if client_ca is not None:
        contents["clients.crt"] = client_ca.pem
    for name, content in contents.items():
        (folder / "new").write_bytes(content)
        (folder / "new").replace(folder / name)
    return TlsFiles(folder / "server.crt", folder / "server.key", folder / "clients.crt" if client_ca is not None else None)


async def over_grpc(port: int, ca: Pair, client: Pair | None = None) -> bool:
    """Whether a call on a new gRPC connection is answered OK."""
    credentials = grpc.ssl_channel_credentials(ca.pem, client.key_pem if client else None, client.pem if client else None)
    options = [("grpc.ssl_target_name_override", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=options) as channel:
        return (await grpc_call(port, b"request", channel=channel)).code == 0


def client_context(folder: Path, ca: Pair, client: Pair | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=ca.pem.decode())
    if client is not None:
        (folder / "client.pem").write_bytes(client.pem + client.key_pem)
        context.load_cert_chain(folder / "client.pem")
    return context


async def over_http(folder: Path, port: int, ca: Pair, client: Pair | None = None) -> bool:
    """Whether a request on a new HTTPS connection is answered 200."""
    try:
        return (await http_call(port, b"request", ssl_context=client_context(folder, ca, client))).code == 200
    except (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError):
        return False


async def test_tls_on_both_listeners(tmp_path: Path) -> None:
    """A client that trusts the CA is served; one that trusts another CA, or speaks plain text, is not."""
    tls = Tls(store(tmp_path, SERVER))
    house = House()
    async with grpc_server(house, credentials=tls.grpc_credentials()) as first, http_server(house, ssl_context=tls.ssl_context) as second:
        grpc_port, http_port = first.bound[0][1], second.bound[0][1]
        assert await over_grpc(grpc_port, CA)
        assert await over_http(tmp_path, http_port, CA)
        assert len(house.got) == 2
        assert not await over_grpc(grpc_port, OTHER_CA)
        assert not await over_http(tmp_path, http_port, OTHER_CA)
        assert (await grpc_call(grpc_port, b"request")).code == grpc.StatusCode.UNAVAILABLE.value[0]
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await http_call(http_port, b"request")
    assert len(house.got) == 2


@pytest.mark.parametrize("client", [None, STRANGER, issue("late", CA, ends=NOW - DAY)], ids=["none", "wrong CA", "expired"])
async def test_mutual_tls_refuses_clients_without_a_valid_certificate(tmp_path: Path, client: Pair | None) -> None:
    """No certificate, another CA's, or one that has ended: nothing of the request is heard."""
    tls = Tls(store(tmp_path, SERVER, CA))
    house = House()
    async with grpc_server(house, credentials=tls.grpc_credentials()) as first, http_server(house, ssl_context=tls.ssl_context) as second:
        assert not await over_grpc(first.bound[0][1], CA, client)
        assert not await over_http(tmp_path, second.bound[0][1], CA, client)
        assert house.got == []
        assert await over_grpc(first.bound[0][1], CA, CLIENT)
        assert await over_http(tmp_path, second.bound[0][1], CA, CLIENT)
    assert len(house.got) == 2


@pytest.mark.parametrize(
    "broken", [issue("late", CA, ends=NOW - DAY), issue("elsewhere", CA, san="elsewhere.example")], ids=["expired", "other name"]
)
async def test_a_client_refuses_a_server_certificate_that_does_not_fit(tmp_path: Path, broken: Pair) -> None:
    """The files are served as they are: an operator's mistake shows at the client."""
    tls = Tls(store(tmp_path, broken))
    async with http_server(House(), ssl_context=tls.ssl_context) as server:
        assert not await over_http(tmp_path, server.bound[0][1], CA)


async def test_new_files_count_for_new_connections_and_old_ones_stay_open(tmp_path: Path) -> None:
    """Certificate and client CA are replaced under open connections; no request on them fails."""
    tls = Tls(store(tmp_path, SERVER, CA))
    house = House()
    async with grpc_server(house, credentials=tls.grpc_credentials()) as first, http_server(house, ssl_context=tls.ssl_context) as second:
        grpc_port, http_port = first.bound[0][1], second.bound[0][1]
        credentials = grpc.ssl_channel_credentials(CA.pem, CLIENT.key_pem, CLIENT.pem)
        options = [("grpc.ssl_target_name_override", "localhost")]
        async with grpc.aio.secure_channel(f"127.0.0.1:{grpc_port}", credentials, options=options) as channel:
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", http_port, ssl=client_context(tmp_path, CA, CLIENT), server_hostname="localhost"
            )
            request = head("POST", "/v1/traces", {"Host": "x", "Content-Type": "application/json", "Content-Length": "2"}) + b"{}"
            for renewed in (False, True):
                if renewed:
                    store(tmp_path, issue("server", OTHER_CA), OTHER_CA)
                    assert tls.reload()
                assert await channel.unary_unary(EXPORT)(b"request") == b""
                writer.write(request)
                assert (await read_reply(reader)).code == 200
            writer.close()
        assert len(house.got) == 4
        # new connections meet the new certificate and the new client CA
        assert not await over_grpc(grpc_port, CA, CLIENT)
        assert not await over_grpc(grpc_port, OTHER_CA, CLIENT)
        assert await over_grpc(grpc_port, OTHER_CA, STRANGER)
        assert not await over_http(tmp_path, http_port, CA, CLIENT)
        assert not await over_http(tmp_path, http_port, OTHER_CA, CLIENT)
        assert await over_http(tmp_path, http_port, OTHER_CA, STRANGER)


async def test_broken_new_files_leave_the_old_ones_in_force(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A renewal that went wrong is logged with the file's name; clients notice nothing."""
    files = store(tmp_path, SERVER)
    tls = Tls(files)
    async with (
        http_server(House(), ssl_context=tls.ssl_context) as server,
        grpc_server(House(), credentials=tls.grpc_credentials()) as other,
    ):
        for content in (b"", b"no certificate", issue("server", CA).pem):  # the last one belongs to another key
            files.certificate.write_bytes(content)
            assert not tls.reload()
            assert "server.crt" in caplog.records[-1].getMessage()
            assert caplog.records[-1].levelno == logging.ERROR
            assert await over_http(tmp_path, server.bound[0][1], CA)
            assert await over_grpc(other.bound[0][1], CA)
        files.certificate.unlink()
        assert not tls.reload()
        assert await over_http(tmp_path, server.bound[0][1], CA)


def test_a_change_is_noticed_by_itself(tmp_path: Path) -> None:
    """Another inode, time or size is a change; the same files are not read twice, broken ones are reported once."""
    files = store(tmp_path, SERVER)
    tls = Tls(files)
    assert not tls.reload_if_changed()
    store(tmp_path, issue("server", CA))
    assert tls.reload_if_changed()
    assert not tls.reload_if_changed()
    files.key.write_bytes(b"broken")
    assert not tls.reload_if_changed()
    store(tmp_path, SERVER)
    assert tls.reload_if_changed()
    os.utime(files.certificate, ns=(1, 1))
    assert tls.reload_if_changed()


def test_unusable_files_are_named_at_start(tmp_path: Path) -> None:
    """Missing, foreign or encrypted: one sentence with the path, and no prompt for a passphrase."""
    files = store(tmp_path, SERVER)
    files.key.write_bytes(issue("other", CA).key_pem)
    with pytest.raises(UnusableCertificate, match=r"server\.key.*must belong"):
        Tls(files)
    encrypted = SERVER.key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    files.key.write_bytes(encrypted)
    with pytest.raises(UnusableCertificate, match="passphrase"):
        Tls(files)
    files.key.unlink()
    with pytest.raises(UnusableCertificate, match=r"server\.key"):
        Tls(files)
