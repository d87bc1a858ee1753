"""The operator's token and where his listener is: two files in the data folder, and who is believed."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from receiver.access.keys import hash_key
from receiver.access.operator_token import TOKEN_FILE, OperatorCredentials, TokenUnusable, ensure_token, read_token
from receiver.access.operator_url import URL_FILE, read_url, remove_url, write_url
from receiver.errors import Unauthenticated


def test_the_token_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    """256 random bits on one line, 0600 whatever the umask; the next start finds the same one, and nothing else is left behind."""
    before = os.umask(0)
    try:
        token = ensure_token(tmp_path)
    finally:
        os.umask(before)
    file = tmp_path / TOKEN_FILE
    assert file.read_text() == token + "\n"
    assert token.startswith("spo_")
    assert len(token) == 47
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert ensure_token(tmp_path) == read_token(tmp_path) == token
    assert [each.name for each in tmp_path.iterdir()] == [TOKEN_FILE]
    (tmp_path / "other").mkdir()
    assert ensure_token(tmp_path / "other") != token


def test_a_start_that_was_killed_halfway_leaves_no_half_token(tmp_path: Path) -> None:
    """What was being written stands under another name, which nobody reads."""
    (tmp_path / f".{TOKEN_FILE}.{os.getpid()}").write_text("spo_ha")
    assert ensure_token(tmp_path) == read_token(tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == [TOKEN_FILE]


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        (None, 0o600, "is missing"),
        ("spo_" + "a" * 43 + "\n", 0o640, "others than its owner"),
        ("spo_" + "a" * 43 + "\n", 0o604, "others than its owner"),
        ("", 0o600, "holds no token"),
        ("spo_short\n", 0o600, "holds no token"),
        ("spt_" + "a" * 43 + "\n", 0o600, "holds no token"),
        ("spo_" + "a" * 20 + " " + "a" * 22, 0o600, "holds no token"),
        ("spo_" + "a" * 20 + "\n" + "a" * 22, 0o600, "holds no token"),
        ("spo_" + "\xff" * 43, 0o600, "holds no token"),
    ],
)
def test_a_token_that_cannot_be_trusted_is_named_with_what_to_do(tmp_path: Path, text: str | None, mode: int, says: str) -> None:
    """Missing, readable by others, or no token at all; the sentence holds the path and never the content."""
    file = tmp_path / TOKEN_FILE
    if text is not None:
        file.write_text(text)
        file.chmod(mode)
    with pytest.raises(TokenUnusable) as refused:
        read_token(tmp_path)
    assert says in str(refused.value)
    assert str(file) in str(refused.value)
    assert "aaaa" not in str(refused.value)


def test_the_token_file_is_a_file_of_ours_and_no_link(tmp_path: Path) -> None:
    """A link could lead to somebody else's file, and a folder is none."""
    (tmp_path / "real").mkdir()
    ensure_token(tmp_path / "real")
    (tmp_path / TOKEN_FILE).symlink_to(tmp_path / "real" / TOKEN_FILE)
    with pytest.raises(TokenUnusable):
        read_token(tmp_path)
    (tmp_path / TOKEN_FILE).unlink()
    (tmp_path / TOKEN_FILE).mkdir()
    with pytest.raises(TokenUnusable):
        read_token(tmp_path)


def test_a_token_is_needed_to_change_and_not_to_look() -> None:
    """While no `[[operator.key]]` is configured; an empty `Authorization` is no token."""
    credentials = OperatorCredentials(token="spo_x")
    assert credentials.account(None, changes=False) == credentials.account("Bearer wrong", changes=False) == ""
    assert credentials.account("Bearer spo_x", changes=True) == "operator"
    for header in (None, "", "Bearer", "Bearer ", "Bearer spo_y", "spo_x", f"Bearer {hash_key('spo_x')}"):
        with pytest.raises(Unauthenticated) as refused:
            credentials.account(header, changes=True)
        assert "operator.token" in str(refused.value)
        assert "spo_" not in str(refused.value)
    assert "spo_x" not in repr(credentials)


def test_with_operator_keys_looking_needs_one_too_and_the_token_opens_all() -> None:
    """Off loopback it shows everyone's cost."""
    credentials = OperatorCredentials([("prometheus", hash_key("k"))], token="spo_x")
    for changes in (False, True):
        assert credentials.account("Bearer k", changes=changes) == "prometheus"
        assert credentials.account("Bearer spo_x", changes=changes) == "operator"
        with pytest.raises(Unauthenticated):
            credentials.account(None, changes=changes)


def test_without_token_and_keys_nothing_can_be_changed() -> None:
    """Where a token is wanting, the answer is no, not yes."""
    credentials = OperatorCredentials()
    for header in (None, "Bearer ", "Bearer x"):
        with pytest.raises(Unauthenticated):
            credentials.account(header, changes=True)


@pytest.mark.parametrize(
    ("bound", "tls", "url"),
    [
        (("127.0.0.1", 8102), False, "http://127.0.0.1:8102"),
        (("::1", 1), True, "https://[::1]:1"),
        (("0.0.0.0", 2), False, "http://127.0.0.1:2"),  # noqa: S104 -- nothing is bound
        (("::", 3), False, "http://[::1]:3"),
        (("192.0.2.7", 4), True, "https://192.0.2.7:4"),
    ],
)
def test_the_url_is_one_that_this_machine_reaches(tmp_path: Path, bound: tuple[str, int], tls: bool, url: str) -> None:
    """A listener on every address is on loopback too; IPv6 has its brackets."""
    write_url(tmp_path, bound, tls=tls)
    assert read_url(tmp_path, str(os.getpid())) == url
    remove_url(tmp_path)
    remove_url(tmp_path)
    assert read_url(tmp_path, str(os.getpid())) is None


def test_what_a_crashed_daemon_wrote_is_not_believed(tmp_path: Path) -> None:
    """Whoever listens there now must not be sent the token: the process that wrote it must be the one that holds the lock."""
    write_url(tmp_path, ("127.0.0.1", 1), tls=False)
    assert read_url(tmp_path, str(os.getpid() + 1)) is None
    assert read_url(tmp_path, "") is None
    for text in ("", "http://127.0.0.1:1", f"http://127.0.0.1:1\n{os.getpid()}\nmore\n", "\n"):
        (tmp_path / URL_FILE).write_text(text)
        assert read_url(tmp_path, str(os.getpid())) is None


def test_a_full_disk_does_not_keep_a_daemon_from_starting(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Commands do not find it then, which the log says."""
    write_url(tmp_path / "missing", ("127.0.0.1", 1), tls=False)
    assert "commands" in caplog.text
