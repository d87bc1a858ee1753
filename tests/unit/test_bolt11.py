"""Invoices: the examples of BOLT #11 (CC BY 4.0, github.com/lightning/bolts), read and written, and what a reader must refuse."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from hypothesis import given
from hypothesis import strategies as st

from receiver.lightning import bech32, bolt11, secp256k1

#: The key that every example of BOLT #11 is signed with, and its public key.
SECRET = 0xE126F68F7EAFCC8B74F54D269FE206BE715000F94DAC067D1C04A8CA3B2DB734
PAYEE = "03e7156ae33b0a208d0744199163177e909e80176e55d97a2f221ede0f934dd9ad"
HASH = bytes.fromhex("0001020304050607080900010203040506070809000102030405060708090102")
MADE = 1_496_314_658
CAKE = hashlib.sha256(
    b"One piece of chocolate cake, one icecream cone, one pickle, one slice of swiss cheese, one slice of salami, one lollypop, "
    b"one piece of cherry pie, one sausage, one cupcake, and one slice of watermelon"
).digest()

P = "pp5qqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqqqsyqcyq5rqwzqfqypq"  # the payment hash of most examples
H = "hp58yjmdan79s6qqdhdzgynm4zwqd5d7xmw5fk98klysy043l2ahrqs"  # the hash of the list of things
S = "sp5zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zyg3zygs"  # the secret 0x1111...

DONATION = (
    f"lnbc1pvjluez{P}dpl2pkx2ctnv5sxxmmwwd5kgetjypeh2ursdae8g6twvus8g6rfwvs8qun0dfjkxaq8rkx3yf5tcsyz3d73gafnh3cax9rn449d9p5uxz9"
    "ezhhypd0elx87sjle52x86fux2ypatgddc6k63n7erqz25le42c4u4ecky03ylcqca784w"
)
COFFEE = (
    f"lnbc2500u1pvjluez{P}dq5xysxxatsyp3k7enxv4jsxqzpuaztrnwngzn3kdzw5hydlzf03qdgm2hdq27cqv3agm2awhz5se903vruatfhq77w3ls4evs3ch9zw97"
    "j25emudupq63nyw24cg27h2rspfj9srp"
)
NONSENSE = (
    f"lnbc2500u1pvjluez{P}dpquwpc4curk03c9wlrswe78q4eyqc7d8d0xqzpuyk0sg5g70me25alkluzd2x62aysf2pyy8edtjeevuv4p2d5p76r4zkmneet7uvyakky"
    "2zr4cusd45tftc9c5fh0nnqpnl2jfll544esqchsrny"
)
LIST = (
    f"lnbc20m1pvjluez{P}{H}cc6gd6ql3jrc5yzme8v4ntcewwz5cnw92tz0pc8qcuufvq7khhr8wpald05e92xw006sq94mg8v2ndf4sefvf9sygkshp5zfem29trqq2yxxz7"
)
TESTNET = (
    f"lntb20m1pvjluez{H}{P}fpp3x9et2e20v6pu37c5d9vax37wxq72un98kmzzhznpurw9sgl2v0nklu2g4d0keph5t7tj9tcqd8rexnd07ux4uv2cjvcqwaxgj7v4uwn5"
    "wmypjd5n69z2xm3xgksg28nwht7f6zspwp3f9t"
)
ROUTED = (
    f"lnbc20m1pvjluez{P}{H}fpp3qjmp7lwpagxun9pygexvgpjdc4jdj85fr9yq20q82gphp2nflc7jtzrcazrra7wwgzxqc8u7754cdlpfrmccae92qgzqvzq2ps8pqqqqqqpq"
    "qqqq9qqqvpeuqafqxu92d8lr6fvg0r5gv0heeeqgcrqlnm6jhphu9y00rrhy4grqszsvpcgpy9qqqqqqgqqqqq7qqzqj9n4evl6mr5aj9f58zp6fyjzup6ywn3x6sk8akg5v4"
    "tgn2q8g4fhx05wf6juaxu9760yp46454gpg5mtzgerlzezqcqvjnhjh8z3g2qqdhhwkj"
)
P2SH = (
    f"lnbc20m1pvjluez{H}{P}fppj3a24vwu6r8ejrss3axul8rxldph2q7z9kmrgvr7xlaqm47apw3d48zm203kzcq357a4ls9al2ea73r8jcceyjtya6fu5wzzpe50zrge6ulk"
    "4nvjcpxlekvmxl6qcs9j3tz0469gq5g658y"
)
P2WPKH = (
    f"lnbc20m1pvjluez{H}{P}fppqw508d6qejxtdg4y5r3zarvary0c5xw7kepvrhrm9s57hejg0p662ur5j5cr03890fa7k2pypgttmh4897d3raaq85a293e9jpuqwl0rnfuw"
    "zam7yr8e690nd2ypcq9hlkdwdvycqa0qza8"
)
P2WSH = (
    f"lnbc20m1pvjluez{H}{P}fp4qrp33g0q5c5txsp9arysrx4k6zdkfs4nce4xj0gdcccefvpysxf3q28j0v3rwgy9pvjnd48ee2pl8xrpxysd5g44td63g6xcjcu003j3qe88"
    "78hluqlvl3km8rm92f5stamd3jw763n3hck0ct7p8wwj463cql26ava"
)
PICO = (
    "lnbc9678785340p1pwmna7lpp5gc3xfm08u9qy06djf8dfflhugl6p7lgza6dsjxq454gxhj9t7a0sd8dgfkx7cmtwd68yetpd5s9xar0wfjn5gpc8qhrsdfq24f5ggrxdaezqs"
    "nvda3kkum5wfjkzmfqf3jkgem9wgsyuctwdus9xgrcyqcjcgpzgfskx6eqf9hzqnteypzxz7fzypfhg6trddjhygrcyqezcgpzfysywmm5ypxxjemgw3hxjmn8yptk7untd9hxw"
    "g3q2d6xjcmtv4ezq7pqxgsxzmnyyqcjqmt0wfjjq6t5v4khxxqyjw5qcqp2rzjq0gxwkzc8w6323m55m4jyxcjwmy7stt9hwkwe2qxmy8zpsgg7jcuwz87fcqqeuqqqyqqqqlgq"
    "qqqn3qq9qn07ytgrxxzad9hc4xt3mawjjt8znfv8xzscs7007v9gh9j569lencxa8xeujzkxs0uamak9aln6ez02uunw6rd2ht2sqe4hz8thcdagpleym0j"
)
BEANS = (
    f"lnbc25m1pvjluez{P}dq5vdhkven9v5sxyetpdees{S}9q5sqqqqqqqqqqqqqqqpqsq67gye39hfg3zd8rgc80k32tvy9xk2xunwm5lzexnvpx6fd77en8qaq424dxgt56cag2dpt"
    "359k3ssyhetktkpqh24jqnjyw6uqd08sgptq44qu"
)
#: An unknown field, a fallback of an unknown version, and hashes, secrets and keys of wrong sizes, all zeros.
SKIPPED = "".join(
    tag + size + "q" * zeros
    for tag, size, zeros in (
        ("2", "qr", 3), ("f", "ppn", 32), ("p", "pn", 51), ("p", "p4", 53), ("h", "pn", 51),
        ("h", "p4", 53), ("s", "pn", 51), ("s", "p4", 53), ("n", "p5", 52), ("n", "pk", 54),
    )
)  # fmt: skip
IGNORED = (
    f"lnbc25m1pvjluez{P}dq5vdhkven9v5sxyetpdees{S}9q5sqqqqqqqqqqqqqqqpqsq{SKIPPED}2jxxfsnucm4jf4zwtznpaxphce606fvhvje5x7d4gw7n73994hgs7nteqvenq8a"
    "4ml8aqtchv5d9pf7l558889hp4yyrqv6a7zpq9fgpskqhza"
)

MAINNET: dict[str, Any] = {"network": "bitcoin", "timestamp": MADE, "payment_hash": HASH, "payee": PAYEE}
#: example -> what it says
VALID: dict[str, dict[str, Any]] = {
    DONATION: MAINNET | {"amount_msat": None, "description": "Please consider supporting this project", "expiry_seconds": 3_600},
    COFFEE: MAINNET | {"amount_msat": 250_000_000, "description": "1 cup coffee", "expiry_seconds": 60},
    NONSENSE: MAINNET | {"amount_msat": 250_000_000, "description": "ナンセンス 1杯", "expiry_seconds": 60},
    LIST: MAINNET | {"amount_msat": 2_000_000_000, "description": None, "description_hash": CAKE},
    TESTNET: MAINNET | {"network": "testnet", "amount_msat": 2_000_000_000, "description_hash": CAKE},
    ROUTED: MAINNET | {"amount_msat": 2_000_000_000, "description_hash": CAKE},
    P2SH: MAINNET | {"amount_msat": 2_000_000_000, "description_hash": CAKE},
    P2WPKH: MAINNET | {"amount_msat": 2_000_000_000, "description_hash": CAKE},
    P2WSH: MAINNET | {"amount_msat": 2_000_000_000, "description_hash": CAKE},
    PICO: {
        "network": "bitcoin",
        "amount_msat": 967_878_534,
        "timestamp": 1_572_468_703,
        "payment_hash": bytes.fromhex("462264ede7e14047e9b249da94fefc47f41f7d02ee9b091815a5506bc8abf75f"),
        "expiry_seconds": 604_800,
        "min_final_cltv_expiry": 10,
        "payee": PAYEE,
        "description": 'Blockstream Store: 88.85 USD for Blockstream Ledger Nano S x 1, "Back In My Day" Sticker x 2, "I Got Lightning '
        'Working" Sticker x 2 and 1 more items',
    },
    BEANS: MAINNET
    | {
        "amount_msat": 2_500_000_000,
        "description": "coffee beans",
        "payment_secret": b"\x11" * 32,
        "features": 1 << 9 | 1 << 15 | 1 << 99,
        "min_final_cltv_expiry": 18,
    },
    BEANS.upper(): MAINNET | {"amount_msat": 2_500_000_000, "description": "coffee beans", "payment_secret": b"\x11" * 32},
    IGNORED: MAINNET | {"amount_msat": 2_500_000_000, "description": "coffee beans", "payment_secret": b"\x11" * 32},
}

INVALID = {
    "unknown feature 100": (
        f"lnbc25m1pvjluez{P}dq5vdhkven9v5sxyetpdees{S}9q4psqqqqqqqqqqqqqqqpqsqq40wa3khl49yue3zsgm26jrepqr2eghqlx86rttutve3ugd05em86nsefzh4pfurpd9ek"
        "9w2vp95zxqnfe2u7ckudyahsa52q66tgzcp6t2dyk"
    ),
    "checksum": NONSENSE[:-1] + "t",
    "no prefix": NONSENSE.removeprefix("lnbc2500u1"),
    "mixed case": NONSENSE.replace("lnbc", "LNBC"),
    "signature is not recoverable": (
        f"lnbc2500u1pvjluez{P}dq5xysxxatsyp3k7enxv4jsxqzpuaxtrnwngzn3kdzw5hydlzf03qdgm2hdq27cqv3agm2awhz5se903vruatfhq77w3ls4evs3ch9zw97j25emudupq63"
        "nyw24cg27h2rspk28uwq"
    ),
    "too short": f"lnbc1pvjluez{P}dpl2pkx2ctnv5sxxmmwwd5kgetjypeh2ursdae8g6na6hlh",
    "multiplier": (
        f"lnbc2500x1pvjluez{P}dq5xysxxatsyp3k7enxv4jsxqzpujr6jxr9gq9pv6g46y7d20jfkegkg4gljz2ea2a3m9lmvvr95tq2s0kvu70u3axgelz3kyvtp2ywwt0y8hkx2869zq5"
        "dll9nelr83zzqqpgl2zg"
    ),
    "fraction of a millisatoshi": (
        f"lnbc2500000001p1pvjluez{P}dq5xysxxatsyp3k7enxv4jsxqzpu7hqtk93pkf7sw55rdv4k9z2vj050rxdr6za9ekfs3nlt5lr89jqpdmxsmlj9urqumg0h9wzpqecw7th56td"
        "ms40p2ny9q4ddvjsedzcplva53s"
    ),
}


@pytest.mark.parametrize("text", VALID, ids=lambda text: f"{text[:12]}...{text[-6:]}")
def test_an_example_is_read_as_the_specification_says(text: str) -> None:
    """Each valid example of BOLT #11 yields the fields of its breakdown and the key that signed it."""
    found = bolt11.decode(text)
    assert {name: getattr(found, name) for name in VALID[text]} == VALID[text]


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_example_is_refused(name: str) -> None:
    """Each invalid example of BOLT #11 is refused with a sentence, never with a foreign exception."""
    with pytest.raises(bolt11.MalformedInvoice, match=r"invoice|amount|feature"):
        bolt11.decode(INVALID[name])


def test_the_examples_are_written_letter_by_letter() -> None:
    """Signed with the specification's key, our invoices are its examples: hashing, padding and the nonce of RFC 6979 agree."""
    common: dict[str, Any] = {"secret": SECRET, "network": "bitcoin", "timestamp": MADE, "payment_hash": HASH}
    assert bolt11.encode(**common, amount_msat=None, description="Please consider supporting this project") == DONATION
    assert bolt11.encode(**common, amount_msat=250_000_000, description="1 cup coffee", expiry_seconds=60) == COFFEE
    assert bolt11.encode(**common, amount_msat=250_000_000, description="ナンセンス 1杯", expiry_seconds=60) == NONSENSE
    assert bolt11.encode(**common, amount_msat=2_000_000_000, description=CAKE) == LIST
    features = 1 << 9 | 1 << 15 | 1 << 99
    beans = bolt11.encode(**common, amount_msat=2_500_000_000, description="coffee beans", payment_secret=b"\x11" * 32, features=features)
    assert beans == BEANS


@given(
    secret=st.integers(1, secp256k1.N - 1),
    network=st.sampled_from(sorted(bolt11.CURRENCIES.values())),
    amount_msat=st.none() | st.integers(1, 21_000_000 * 10**11),
    timestamp=st.integers(0, 2**35 - 1),
    payment_hash=st.binary(min_size=32, max_size=32),
    payment_secret=st.none() | st.binary(min_size=32, max_size=32),
    description=st.text(max_size=100) | st.binary(min_size=32, max_size=32),
    expiry_seconds=st.integers(1, 10**9),
)
def test_what_is_written_is_read_again(
    *,
    secret: int,
    network: str,
    amount_msat: int | None,
    timestamp: int,
    payment_hash: bytes,
    payment_secret: bytes | None,
    description: str | bytes,
    expiry_seconds: int,
) -> None:
    """Any invoice that we write is read with the same fields and names the key that signed it."""
    text = bolt11.encode(
        secret=secret,
        network=network,
        amount_msat=amount_msat,
        timestamp=timestamp,
        payment_hash=payment_hash,
        payment_secret=payment_secret,
        description=description,
        expiry_seconds=expiry_seconds,
        min_final_cltv_expiry=40,
        features=1 << 14 if payment_secret else 0,
    )
    found = bolt11.decode(f"lightning:{text.upper()}")
    assert (found.network, found.amount_msat, found.timestamp) == (network, amount_msat, timestamp)
    assert (found.payment_hash, found.payment_secret) == (payment_hash, payment_secret)
    assert (found.description_hash if isinstance(description, bytes) else found.description) == description
    assert (found.expiry_seconds, found.min_final_cltv_expiry) == (expiry_seconds, 40)
    assert found.payee == secp256k1.public_key(secret).hex()


@given(secret=st.integers(1, secp256k1.N - 1), digest=st.binary(min_size=32, max_size=32), other=st.binary(min_size=32, max_size=32))
def test_another_library_agrees_about_keys_and_signatures(secret: int, digest: bytes, other: bytes) -> None:
    """OpenSSL derives the same public key, accepts our signature, and we accept OpenSSL's; a changed message is refused by both."""
    key = ec.derive_private_key(secret, ec.SECP256K1())
    numbers = key.public_key().public_numbers()
    mine = secp256k1.public_key(secret)
    assert mine == bytes((2 + (numbers.y & 1),)) + numbers.x.to_bytes(32)
    signature, recovery = secp256k1.sign(digest, secret)
    r, s = int.from_bytes(signature[:32]), int.from_bytes(signature[32:])
    prehashed = ec.ECDSA(utils.Prehashed(hashes.SHA256()))
    key.public_key().verify(utils.encode_dss_signature(r, s), digest, prehashed)
    assert secp256k1.recover(digest, signature, recovery) == mine
    assert secp256k1.verify(digest, signature, mine)
    if other != digest:
        assert not secp256k1.verify(other, signature, mine)
        assert secp256k1.recover(other, signature, recovery) != mine
    theirs_r, theirs_s = utils.decode_dss_signature(key.sign(digest, prehashed))
    low = min(theirs_s, secp256k1.N - theirs_s)
    assert secp256k1.verify(digest, theirs_r.to_bytes(32) + low.to_bytes(32), mine)
    high = (secp256k1.N - low).to_bytes(32)
    assert not secp256k1.verify(digest, theirs_r.to_bytes(32) + high, mine)


def test_a_stated_key_must_have_signed() -> None:
    """Where an invoice names its node (field n), a signature by another key is refused, and its own is taken."""
    prefix, words = bech32.decode(COFFEE)
    for secret, own in ((SECRET, True), (SECRET - 1, False)):
        stated = [19, 1, 21, *bech32.to_words(bytes.fromhex(PAYEE))]
        signed = [*words[:-104], *stated]
        size = -(-len(signed) * 5 // 8)
        bits = (bech32.to_int(signed) << size * 8 - len(signed) * 5).to_bytes(size)
        signature, recovery = secp256k1.sign(hashlib.sha256(prefix.encode() + bits).digest(), secret)
        text = bech32.encode(prefix, [*signed, *bech32.to_words(signature + bytes((recovery,)))])
        if own:
            assert bolt11.decode(text).payee == PAYEE
        else:
            with pytest.raises(bolt11.MalformedInvoice, match="not signed by the node that it names"):
                bolt11.decode(text)


@given(st.text(alphabet=bech32.CHARSET + "1", max_size=400) | st.text(max_size=60), st.sampled_from(["lnbc1", "lnbcrt10u1", "lntb", ""]))
def test_anything_is_read_or_refused(text: str, prefix: str) -> None:
    """Arbitrary text meets the one error of this module and no other exception."""
    with pytest.raises(bolt11.MalformedInvoice):
        bolt11.decode(prefix + text)


@given(st.lists(st.integers(0, 31), max_size=300), st.sampled_from(["lnbc", "lnbcrt25n", "lntb9999999999999999"]))
def test_fields_of_any_shape_are_read_or_refused(words: list[int], prefix: str) -> None:
    """Words with a good checksum but no meaning meet the one error of this module, or are an invoice of somebody."""
    try:
        found = bolt11.decode(bech32.encode(prefix, words))
    except bolt11.MalformedInvoice:
        return
    assert len(found.payment_hash) == 32
    assert len(found.payee) == 66
