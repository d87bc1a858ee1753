"""ECDSA with public key recovery on secp256k1, as BOLT-11 signatures need it.

In Python integers: the package for it (coincurve) has wheels for some Pythons only, and a few top-ups an hour do not need one: a
signature or a recovery takes 2 ms. **Not in constant time**: fit for checking signatures, where all is public, and
for signing with the development wallet's key, which guards play money. Nothing else may sign with it.

Sources: SEC 1 version 2 (4.1.3, 4.1.4, 4.1.6), SEC 2 (2.4.1) for the curve, RFC 6979 for the nonce.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from typing import Final, NamedTuple

P: Final = 2**256 - 2**32 - 977  #: the field
N: Final = 0xFFFFFFFF_FFFFFFFF_FFFFFFFF_FFFFFFFE_BAAEDCE6_AF48A03B_BFD25E8C_D0364141  #: the order of the group
_GX: Final = 0x79BE667E_F9DCBBAC_55A06295_CE870B07_029BFCDB_2DCE28D9_59F2815B_16F81798
_GY: Final = 0x483ADA77_26A3C465_5DA4FBFC_0E1108A8_FD17B448_A6855419_9C47D08F_FB10D4B8


class Point(NamedTuple):
    """A point (x / z², y / z³); z = 0 is the point at infinity."""

    x: int
    y: int
    z: int = 1


_G: Final = Point(_GX, _GY)
_INFINITY: Final = Point(1, 1, 0)


def public_key(secret: int) -> bytes:
    """The compressed public key, 33 bytes, of a secret in [1, N)."""
    assert 0 < secret < N
    return _compressed(_multiply_sum(secret, _G))


def sign(digest: bytes, secret: int) -> tuple[bytes, int]:
    """A signature of a 32-byte digest: (r and s in 64 bytes, recovery id 0 to 3). s is in the lower half; the nonce is RFC 6979's."""
    assert len(digest) == 32
    assert 0 < secret < N
    number = int.from_bytes(digest)
    for nonce in _nonces(digest, secret):
        x, y = _affine(_multiply_sum(nonce, _G))
        r = x % N
        s = pow(nonce, -1, N) * (number + r * secret) % N
        if r and s:
            recovery = (y & 1) | (2 if x >= N else 0)
            if s > N // 2:
                s, recovery = N - s, recovery ^ 1
            return r.to_bytes(32) + s.to_bytes(32), recovery
    raise AssertionError  # the generator of nonces does not end


def recover(digest: bytes, signature: bytes, recovery: int) -> bytes | None:
    """The compressed public key whose signature this is; None when it is nobody's."""
    assert len(digest) == 32
    assert len(signature) == 64
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
    if not (0 < r < N and 0 < s < N and 0 <= recovery < 4):
        return None
    point = _lifted(r + (N if recovery & 2 else 0), odd=bool(recovery & 1))
    if point is None:
        return None
    inverse = pow(r, -1, N)
    found = _multiply_sum(-int.from_bytes(digest) * inverse % N, _G, s * inverse % N, point)
    return None if found.z == 0 else _compressed(found)


def verify(digest: bytes, signature: bytes, key: bytes) -> bool:
    """Whether the compressed public key `key` made this signature. A high s is refused, as libsecp256k1 refuses it."""
    assert len(digest) == 32
    assert len(signature) == 64
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
    if not (0 < r < N and 0 < s <= N // 2) or len(key) != 33 or key[0] not in (2, 3):
        return False
    point = _lifted(int.from_bytes(key[1:]), odd=key[0] == 3)
    if point is None:
        return False
    inverse = pow(s, -1, N)
    found = _multiply_sum(int.from_bytes(digest) * inverse % N, _G, r * inverse % N, point)
    return found.z != 0 and _affine(found)[0] % N == r


def _nonces(digest: bytes, secret: int) -> Iterator[int]:
    """RFC 6979 3.2 with SHA-256: nonces that follow from message and key, so that a bad random source gives no key away."""
    seed = secret.to_bytes(32) + (int.from_bytes(digest) % N).to_bytes(32)
    key, value = bytes(32), b"\1" * 32
    for separator in (b"\0", b"\1"):
        key = hmac.digest(key, value + separator + seed, "sha256")
        value = hmac.digest(key, value, "sha256")
    while True:
        value = hmac.digest(key, value, "sha256")
        nonce = int.from_bytes(value)
        if 0 < nonce < N:
            yield nonce
        key = hmac.digest(key, value + b"\0", "sha256")
        value = hmac.digest(key, value, "sha256")


def _lifted(x: int, *, odd: bool) -> Point | None:
    """The point with this x and a y of this parity, None when the curve has none."""
    if x >= P:
        return None
    square = (x * x * x + 7) % P
    y = pow(square, (P + 1) // 4, P)
    if y * y % P != square:
        return None
    return Point(x, y if (y & 1) == odd else P - y)


def _multiply_sum(a: int, point: Point, b: int = 0, other: Point = _INFINITY) -> Point:
    """The sum a * point + b * other, both factors walked bit by bit at once (Shamir)."""
    both = _add(point, other)
    total = _INFINITY
    for bit in range(max(a.bit_length(), b.bit_length()) - 1, -1, -1):
        total = _double(total)
        match a >> bit & 1, b >> bit & 1:
            case 1, 0:
                total = _add(total, point)
            case 0, 1:
                total = _add(total, other)
            case 1, 1:
                total = _add(total, both)
    return total


def _double(point: Point) -> Point:
    x, y, z = point
    if not z:
        return point
    yy = y * y % P
    s = 4 * x * yy % P
    m = 3 * x * x % P
    new_x = (m * m - 2 * s) % P
    return Point(new_x, (m * (s - new_x) - 8 * yy * yy) % P, 2 * y * z % P)


def _add(point: Point, other: Point) -> Point:
    x1, y1, z1 = point
    x2, y2, z2 = other
    if not z1:
        return other
    if not z2:
        return point
    zz1, zz2 = z1 * z1 % P, z2 * z2 % P
    u1, u2 = x1 * zz2 % P, x2 * zz1 % P
    s1, s2 = y1 * zz2 * z2 % P, y2 * zz1 * z1 % P
    if u1 == u2:
        return _double(point) if s1 == s2 else _INFINITY
    h, r = u2 - u1, s2 - s1
    hh = h * h % P
    hhh = h * hh % P
    v = u1 * hh % P
    x = (r * r - hhh - 2 * v) % P
    return Point(x, (r * (v - x) - s1 * hhh) % P, h * z1 * z2 % P)


def _affine(point: Point) -> tuple[int, int]:
    x, y, z = point
    inverse = pow(z, -1, P)
    square = inverse * inverse % P
    return x * square % P, y * square * inverse % P


def _compressed(point: Point) -> bytes:
    x, y = _affine(point)
    return bytes((2 + (y & 1),)) + x.to_bytes(32)
