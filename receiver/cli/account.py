"""`spantoll account`: who pays, on what terms, and with which keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, TypeVar

import click

from receiver.cli.operator_api import operator_api, segment
from receiver.cli.options import configured, formatted, read_config
from receiver.config import parse_duration, parse_size
from receiver.core.credit import OnExhausted
from receiver.logs import printable

F = TypeVar("F", bound=Callable[..., Any])

_PATH: Final = "/api/v1/accounts"
#: What `set --unset` takes: everything that can be set for one account.
_SETTINGS: Final = (
    "enforce",
    "price-per-span-msat",
    "credit-limit-msat",
    "on-exhausted",
    "max-debt-msat",
    "max-in-flight",
    "max-open-spans",
    "max-series",
    "note",
)


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError:
        raise click.BadParameter(f'{text!r} is no size such as "64MiB"') from None


def _duration(text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError:
        raise click.BadParameter(f'{text!r} is no duration such as "1h" or "30m"') from None


def terms(verb: F) -> F:
    """Give a verb an option for each thing that can be set for an account."""
    whole = click.IntRange(min=0)
    options = (
        click.option("--enforce/--no-enforce", default=None, help="Refuse it when its credit is used up, or only meter it."),
        click.option("--price-per-span-msat", type=whole, help="What a newly accepted span costs it, in millisatoshi."),
        click.option("--credit-limit-msat", type=whole, help="How far below 0 its balance may go."),
        click.option(
            "--on-exhausted", type=click.Choice([choice.value for choice in OnExhausted]), help="What happens to its spans without credit."
        ),
        click.option("--max-debt-msat", type=whole, help='How much further "accept" lets it go.'),
        click.option("--max-in-flight", type=_size, metavar="SIZE", help="Bytes of its requests that are worked on at once."),
        click.option("--max-open-spans", type=whole, help="Spans of its traces that may be open at once."),
        click.option("--max-series", type=whole, help="Label combinations that it may have in the metrics."),
        click.option("--note", metavar="TEXT", help="Your own words about it."),
    )
    for option in reversed(options):
        verb = option(verb)
    return verb


@click.group()
def account() -> None:
    """Accounts: who pays, on what terms, and with which keys.

    While no key exists at all, everything belongs to the account `default`. As soon as there is one, in the configuration or made
    here, every request needs a key.

    These commands ask the running daemon, or open its data folder themselves while none runs.

    \b
    Examples:
      spantoll account add acme
      spantoll account list
      spantoll account rotate-key acme --grace 1h

    Exit codes: 0 done, 1 it could not be done, 2 the command line or the configuration is wrong.
    """  # noqa: D301 -- click wants the backspace itself, which keeps the lines below it as they are


@account.command()
@click.argument("name")
@terms
@formatted
@configured
def add(name: str, config_file: str | None, assignments: tuple[str, ...], output_format: str, **settings: Any) -> None:
    """Make an account and its first key, which is shown once.

    What is not said here is as [credit] says for everyone.

    \b
    Examples:
      spantoll account add acme
      spantoll account add acme --enforce --on-exhausted hold --note "pays by the month"
    """  # noqa: D301 -- click wants the backspace itself, which keeps the lines below it as they are
    body = {"account": name, **_given(settings)}
    with operator_api(read_config(config_file, assignments)) as api:
        answer = api.call("POST", _PATH, body)
    _show_key(answer, f"Account {name} was added.", output_format)


@account.command("list")
@formatted
@configured
def list_(config_file: str | None, assignments: tuple[str, ...], output_format: str) -> None:
    """Show every account."""
    with operator_api(read_config(config_file, assignments)) as api:
        answer = api.call("GET", _PATH)
    if output_format == "json":
        _print_json(answer)
        return
    from receiver.cli.account_tables import print_accounts  # noqa: PLC0415 -- brings rich in, which JSON need not wait for

    print_accounts(answer)


@account.command()
@click.argument("name")
@formatted
@configured
def show(name: str, config_file: str | None, assignments: tuple[str, ...], output_format: str) -> None:
    """Show one account with its terms, limits and keys."""
    with operator_api(read_config(config_file, assignments)) as api:
        answer = api.call("GET", f"{_PATH}/{segment(name)}")
    _show(answer, output_format)


@account.command("set")
@click.argument("name")
@terms
@click.option("--unset", multiple=True, type=click.Choice(_SETTINGS), help="Make this as for everyone again; may be repeated.")
@formatted
@configured
def set_(
    name: str, config_file: str | None, assignments: tuple[str, ...], output_format: str, unset: tuple[str, ...], **settings: Any
) -> None:
    """Change an account's terms, limits or note, from the next request on.

    \b
    Examples:
      spantoll account set acme --price-per-span-msat 5 --credit-limit-msat 100000
      spantoll account set acme --unset price-per-span-msat
    """  # noqa: D301 -- click wants the backspace itself, which keeps the lines below it as they are
    body = {**_given(settings), **dict.fromkeys((each.replace("-", "_") for each in unset), None)}
    if not body:
        raise click.UsageError("nothing is to be changed: say what, such as --enforce")
    with operator_api(read_config(config_file, assignments)) as api:
        answer = api.call("PATCH", f"{_PATH}/{segment(name)}", body)
    _show(answer, output_format)


@account.command()
@click.argument("name")
@formatted
@configured
def disable(name: str, config_file: str | None, assignments: tuple[str, ...], output_format: str) -> None:
    """Refuse everything of an account at once. Its books stay, and what is paid to it is credited."""
    with operator_api(read_config(config_file, assignments)) as api:
        answer = api.call("POST", f"{_PATH}/{segment(name)}/disable")
    _show(answer, output_format)


@account.command()
@click.argument("name")
@formatted
@configured
def enable(name: str, config_file: str | None, assignments: tuple[str, ...], output_format: str) -> None:
    """Let a disabled account in again."""
    with operator_api(read_config(config_file, assignments)) as api:
        answer = api.call("POST", f"{_PATH}/{segment(name)}/enable")
    _show(answer, output_format)


@account.command("rotate-key")
@click.argument("name")
@click.option(
    "--grace", type=_duration, default="0s", show_default=True, metavar="DURATION", help="How long the old keys still open it: 1h, 30m."
)
@formatted
@configured
def rotate_key(name: str, grace: float, config_file: str | None, assignments: tuple[str, ...], output_format: str) -> None:
    """Make a new key in place of the old ones, and show it once.

    Keys in the configuration ([[access.key]]) are left alone.

    \b
    Examples:
      spantoll account rotate-key acme
      spantoll account rotate-key acme --grace 1h
    """  # noqa: D301 -- click wants the backspace itself, which keeps the lines below it as they are
    with operator_api(read_config(config_file, assignments)) as api:
        answer = api.call("POST", f"{_PATH}/{segment(name)}/rotate-key", {"grace_seconds": round(grace)})
    _show_key(answer, f"Account {name} has a new key.", output_format)


def exporter_header(key: str) -> str:
    """What an exporter is started with. The blank is percent-encoded: the value has the syntax of W3C baggage."""
    return f'OTEL_EXPORTER_OTLP_HEADERS="authorization=Bearer%20{key}"'


def _given(settings: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in settings.items() if value is not None}


def _print_json(answer: dict[str, Any]) -> None:
    click.echo(json.dumps(answer, indent=2))


def _show_key(answer: dict[str, Any], done: str, output_format: str) -> None:
    if output_format == "json":
        _print_json(answer)
        return
    lines = [printable(done), "", f"  {answer['key']}", "", "This key will not be shown again. Start the exporter with:"]
    lines += [f"  export {exporter_header(answer['key'])}"]
    if answer.get("replaced_keys"):
        until = answer["old_keys_expire"]
        lines += ["", f"The keys before it open it until {until}." if until else "The keys before it open nothing any more."]
    static = sum(key["source"] == "configuration" for key in answer["keys"])
    if static:
        lines += ["", f"{static} keys of it stand in the configuration and stay in force: remove them from [[access.key]] there."]
    if answer["first_key"]:
        lines += [
            "",
            "From now on a key is required of everybody: requests without one are refused, also those that were `default` until now.",
        ]
    click.echo("\n".join(lines))


def _show(answer: dict[str, Any], output_format: str) -> None:
    if output_format == "json":
        _print_json(answer)
        return
    from receiver.cli.account_tables import print_account  # noqa: PLC0415 -- brings rich in, which JSON need not wait for

    print_account(answer)
