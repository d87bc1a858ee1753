"""How credit looks to those who ask: the dicts that the offices answer with, the listeners send and the command line prints.

Amounts are integers, `*_msat`; beside one that people read stands `*_sat`, the same amount in satoshi as a decimal string.
Moments are RFC 3339 in UTC. What does not apply is None.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from receiver.core.credit import CreditPolicy, format_sat
from receiver.core.invoices import SECOND_NANO, InvoiceState, TopUp
from receiver.core.ledger import Audit, Balance, Line
from receiver.core.moments import rfc3339
from receiver.lightning.dev import NETWORK


def show_balance(account: str, balance: Balance, policy: CreditPolicy, *, runway_seconds: float) -> dict[str, Any]:
    """An account's money and what was decided for it.

    Returns:
        `account`; `posted_msat`, `posted_sat`: what the books show; `held_msat`: of it, promised to requests whose commit is under way;
        `available_msat`, `available_sat`: the rest; `price_per_span_msat`; `spans_left`: how many spans it still pays, None when they
        are free; `runway_seconds`: how long it lasts at the pace of late, None when nothing is being spent; `enabled`, `enforce`,
        `on_exhausted`, `credit_limit_msat`, `max_debt_msat`, `low_balance_marks_msat`: the policy.

    """
    price_msat = policy.price_per_span_msat
    return {
        "account": account,
        "posted_msat": balance.posted_msat,
        "posted_sat": in_sat(balance.posted_msat),
        "held_msat": balance.held_msat,
        "available_msat": balance.available_msat,
        "available_sat": in_sat(balance.available_msat),
        "price_per_span_msat": price_msat,
        "spans_left": max(0, balance.available_msat) // price_msat if price_msat else None,
        "runway_seconds": None if math.isinf(runway_seconds) else round(runway_seconds, 3),
        "enabled": policy.enabled,
        "enforce": policy.enforce,
        "on_exhausted": policy.on_exhausted.value,
        "credit_limit_msat": policy.credit_limit_msat,
        "max_debt_msat": policy.max_debt_msat,
        "low_balance_marks_msat": list(policy.low_balance_marks_msat),
    }


def show_line(line: Line, receipt: dict[str, Any] | None) -> dict[str, Any]:
    """A line of a statement.

    Returns:
        `at`: of its last transfer; `code`: "usage", "topup" or "adjust"; `amount_msat`, `amount_sat`: signed; `balance_msat`,
        `balance_sat`: after it; `transfers`: how many are in it (usage is one line a UTC day); `id`, `cause`; `receipt`: of a top-up,
        as `show_topup`, else None.

    """
    return {
        "at": rfc3339(line.unix_nano),
        "code": line.code.value,
        "amount_msat": line.amount_msat,
        "amount_sat": in_sat(line.amount_msat),
        "balance_msat": line.balance_msat,
        "balance_sat": in_sat(line.balance_msat),
        "transfers": line.transfers,
        "id": line.id,
        "cause": line.cause,
        "receipt": receipt,
    }


def show_audit(found: Audit) -> dict[str, Any]:
    """Whether the books add up.

    Returns:
        `balanced`; `sum_msat`: over all ledger accounts, 0 when they do; `differences`: {`ledger_account`, `derived`, `shown`}, each of
        the two {`debits_msat`, `credits_msat`}, where what is shown is not what the transfers come to.

    """
    return {
        "balanced": found.balanced,
        "sum_msat": found.sum_msat,
        "differences": [
            {"ledger_account": str(account), "derived": asdict(derived), "shown": asdict(shown)}
            for account, derived, shown in found.differences
        ],
    }


def show_topup(row: TopUp, *, now_unix_nano: int) -> dict[str, Any]:
    """A top-up, for its account and for the operator alone: once it is settled it holds the proof of payment.

    Returns:
        `payment_hash`: its id, in hex; `account`; `state`: "open", "settled", "canceled" or "expired"; `bolt11`; `uri`: what a wallet
        opens; `amount_msat`, `amount_sat`: asked for; `network`; `play_money`: whether no money can be in it; `payee`: the node's public
        key in hex; `created`; `expires`; `expires_in_seconds`: by the daemon's clock; `received_msat`, `received_sat`: credited;
        `settled`; `late`: paid after its expiry; `preimage`: the payer's receipt in hex, None until it is settled.

    """
    settled = row.state is InvoiceState.SETTLED
    return {
        "payment_hash": row.payment_hash.hex(),
        "account": row.account,
        "state": row.state.value,
        "bolt11": row.bolt11,
        "uri": f"lightning:{row.bolt11}",
        "amount_msat": row.amount_msat,
        "amount_sat": in_sat(row.amount_msat),
        "network": row.network,
        "play_money": row.network == NETWORK,
        "payee": row.payee,
        "created": rfc3339(row.created_unix_nano),
        "expires": rfc3339(row.expires_unix_nano),
        "expires_in_seconds": max(0, row.expires_unix_nano - now_unix_nano) // SECOND_NANO,
        "received_msat": row.received_msat,
        "received_sat": in_sat(row.received_msat),
        "settled": rfc3339(row.settled_unix_nano) if settled else None,
        "late": row.late,
        "preimage": row.preimage.hex() if settled else None,
    }


def in_sat(msat: int) -> str:
    """An amount in satoshi as a decimal number, exactly: `1234500` is "1234.5"."""
    return format_sat(msat).replace(",", "")
