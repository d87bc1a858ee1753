"""The sections that say what Spantoll itself costs and how it is paid: `[credit]`, `[lightning]`; and what is kept of whom: `[privacy]`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from receiver.config import kinds
from receiver.config.fields import choice, count, duration, file, flag, key, section

#: 21 million bitcoin: no amount is larger.
_MOST_MSAT: Final = 2_100_000_000_000_000_000
#: No user name or password in it: a credential does not belong into a text that is shown.
_NODE_URL: Final = kinds.Text(
    pattern=r"https?://[^/\s?#@]+(?:/[^\s?#]*)?", allowed='a URL such as "https://localhost:8080", or "" for none'
)
_VARIABLE: Final = kinds.Text(pattern=r"[A-Za-z_][A-Za-z0-9_]*", allowed='the name of an environment variable, or "" for none')


@dataclass(frozen=True, slots=True, kw_only=True)
class Credit:
    """`[credit]`."""

    enforce: bool = flag(False, "true: an account that has no credit left is refused. false: it is metered and shown, never refused.")
    price_per_span_msat: int = count(
        10,
        "What a newly accepted span costs, in millisatoshi: 10 is 100 sat for 10,000 spans. Duplicates and refused spans are free.",
        least=0,
        most=1_000_000_000,
    )
    on_exhausted: str = choice(
        "drop",
        ("drop", "hold", "accept"),
        'Without credit: "drop" refuses for good, so exporters drop and log it; "hold" asks to send again, which a collector\'s queue does;'
        ' "accept" takes spans as debt up to `max_debt_msat`, then drops.',
    )
    max_debt_msat: int = count(0, 'How far below the credit limit "accept" lets an account go.', least=0, most=_MOST_MSAT)
    credit_limit_msat: int = count(0, "How far below 0 a balance may go in the ordinary way.", least=0, most=_MOST_MSAT)
    at_last_span: str = choice(
        "whole",
        ("whole", "partial"),
        'A request that credit covers in part: "whole" refuses all of it, "partial" stores what is covered and rejects the rest by'
        " partial_success, which no exporter sends again.",
    )
    on_ledger_error: str = choice(
        "hold",
        ("hold", "accept"),
        'While the books cannot be asked: "hold" asks to send again, "accept" takes spans without regard to the balance. The books in the'
        " data folder fail only together with the journal, which refuses by itself; so today this changes nothing.",
    )
    start_balance_msat: int = count(0, "What a new account is given once, so that it can be tried out.", least=0, most=_MOST_MSAT)
    low_balance_marks_msat: tuple[int, ...] = key(
        (), kinds.Counts(0, _MOST_MSAT), "Balances below which an account is warned, once per fall: in the answer, the log and a metric."
    )
    topup_url: str = key(
        "",
        kinds.Text(pattern=r"https?://\S+", allowed='a URL, or "" for that of the customer listener'),
        "Where refusals send people to top up.",
    )
    webhook_url: str = key(
        "",
        kinds.Text(pattern=r"https?://[^/\s?#@]+(?:/[^\s#]*)?", allowed='a URL, or "" for none'),
        "Told by POST when a balance passes a low mark and when an account is first refused for want of credit. Signed as Standard"
        " Webhooks says; what cannot be delivered is tried again for about a day. Redirects are not followed.",
    )
    webhook_secret_file: str = file("A file with the secret that signs them (HMAC-SHA256): `whsec_` and base64, or any line of text.")


@dataclass(frozen=True, slots=True, kw_only=True)
class LightningDev:
    """`[lightning.dev]`."""

    allow_off_loopback: bool = flag(
        False, "true: serve other machines although this wallet's money is play money: whoever reaches `dev pay` can settle any invoice."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LightningLnd:
    """`[lightning.lnd]`."""

    url: str = key("", _NODE_URL, 'Where its REST interface is (`restlisten`), such as "https://localhost:8080".')
    cert_file: str = file(
        "The node's own certificate (`tls.cert`): only this one is believed then. Without it, the system's authorities are."
    )
    macaroon_file: str = file(
        "A macaroon that can receive and not pay; one that can pay is refused. `spantoll lightning check` shows how to bake it."
        " Read again when it changes."
    )
    macaroon_env: str = key("", _VARIABLE, "Name of the environment variable that holds the macaroon in hexadecimal, instead of a file.")
    route_hints: bool = flag(
        False, "true: invoices name the node's private channels. A node that has no others cannot be paid without; others need it not."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LightningLnbits:
    """`[lightning.lnbits]`."""

    url: str = key("", _NODE_URL, 'Where the server is, such as "https://lnbits.example.com".')
    cert_file: str = file("The server's own certificate: only this one is believed then. Without it, the system's authorities are.")
    key_file: str = file("A file with the wallet's invoice/read key; the admin key, which can pay, is refused. Read again when it changes.")
    key_env: str = key("", _VARIABLE, "Name of the environment variable that holds the key, instead of a file.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Lightning:
    """`[lightning]`."""

    backend: str = choice(
        "dev",
        ("dev", "lnd", "lnbits", "off"),
        '"dev": a wallet without a node, for trying out: its invoices are real in form only. "lnd": an LND node. "lnbits": a wallet of an'
        ' LNbits server. "off": no top-ups.',
    )
    network: str = choice(
        "bitcoin",
        ("bitcoin", "testnet", "signet", "regtest"),
        "The chain that a real node must be on, so that play money is never credited by mistake; the dev wallet is always on regtest.",
    )
    play_money: str = choice(
        "refuse",
        ("refuse", "take_back", "keep"),
        "What happens at the start where a node on bitcoin is named and accounts have credit left of the dev wallet or a test network:"
        ' "refuse" does not start, "take_back" takes it from them, "keep" lets them spend it as money.',
    )
    topup_min_sat: int = count(100, "The least top-up.", least=1, most=_MOST_MSAT // 1_000)
    topup_max_sat: int = count(1_000_000, "The largest top-up.", least=1, most=_MOST_MSAT // 1_000)
    invoice_expiry: float = duration("1h", "How long an invoice can be paid.", least="1m", most="30d")
    max_unpaid: int = count(8, "Invoices of one account that can be open at once.", least=1, most=99)
    address: bool = flag(
        False,
        "true: each account has a Lightning Address, ACCOUNT@HOST of the customers' listener, which anyone can pay to (LNURL-pay). It tells"
        " strangers which accounts there are.",
    )
    public_max_unpaid: int = count(
        100, "Invoices of strangers (L402, Lightning Address) that can be open at once, all together.", least=1, most=100_000
    )
    public_per_hour: int = count(
        20,
        "Invoices that a stranger's address (of IPv6 its /64) may ask for in an hour; 0: any number. Behind a proxy all have its address.",
        least=0,
        most=1_000_000,
    )
    dev: LightningDev = section(LightningDev, "The wallet without a node.")
    lnd: LightningLnd = section(LightningLnd, "An LND node; receiving is all that is asked of it.")
    lnbits: LightningLnbits = section(LightningLnbits, "A wallet of an LNbits server; receiving is all that is asked of it.")


@dataclass(frozen=True, slots=True, kw_only=True)
class L402:
    """`[l402]`."""

    enabled: bool = flag(
        False,
        "true: who asks the customers' listener for a top-up without a key is answered 402 with an invoice and a token; paid, the token is"
        " an account, in exporters too (`Authorization: L402 TOKEN:PREIMAGE`). Every request then needs a key or a token. false: none is"
        " sold; those that were sold go on.",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """`[privacy]`."""

    hash: tuple[str, ...] = key(
        (),
        kinds.Names(("user", "session", "tenant")),
        "Dimensions that are stored and shown as a keyed hash only, from the first moment on; the key lies in the data folder.",
    )
    keep_charges: float = duration(
        "0s",
        "Single charges older than this are rolled up to daily sums without user, session and trace; 0s: they are kept for good.",
        least="0s",
        most="3650d",
    )
