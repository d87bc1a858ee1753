"""What is kept of whom: keyed hashes in the place of names, and names that were asked to be forgotten."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from receiver.access.privacy_key import FILE, KeyUnusable, ensure_key
from receiver.core.privacy import Forgotten, Privacy
from receiver.metrics.labels import MAX_VALUE_BYTES, Series, label_value
from tests.unit.charges import charge

KEY = bytes(range(32))


def test_what_is_hashed_is_hashed_everywhere_and_nothing_else() -> None:
    """The same name in the same dimension is the same hash, so that sums stay whole; None stays None."""
    privacy = Privacy(("user", "tenant"), key=KEY)
    first, second, nobody = privacy.applied(
        [charge(1, user="ada", tenant="ada", agent="ada"), charge(2, user="ada", session="s"), charge(3)]
    )
    assert first.user == second.user == privacy.hash("user", "ada")
    assert first.user != first.tenant, "the same text in another dimension is another name"
    assert (first.agent, second.session, nobody.user, nobody.tenant) == ("ada", "s", None, None)
    assert first._replace(user="ada", tenant="ada") == charge(1, user="ada", tenant="ada", agent="ada"), "nothing else changes"


def test_a_hash_needs_the_key_and_is_short() -> None:
    """Names can be guessed; without the key no guess can be tried. As a label it is shown whole."""
    mine, other = Privacy(key=KEY), Privacy(key=bytes(32))
    assert mine.hash("user", "ada") == Privacy(key=KEY).hash("user", "ada")
    assert mine.hash("user", "ada") != other.hash("user", "ada")
    assert mine.hash("user", "ada") != mine.hash("user", "adb")
    assert "ada" not in mine.hash("user", "ada")
    assert label_value(mine.hash("user", "ada")) == mine.hash("user", "ada")
    assert len(mine.hash("user", "ada").encode()) < MAX_VALUE_BYTES


def test_any_text_can_be_hashed() -> None:
    """Names come from clients: emptiness, half a surrogate pair and great length are no reasons to fail a close."""
    privacy = Privacy(("user",), key=KEY)
    names = ["", "\ud800", "x" * 100_000, "hash:", "\x00"]
    hashes = {charge.user for charge in privacy.applied([charge(number, user=name) for number, name in enumerate(names)])}
    assert len(hashes) == len(names)


def test_with_nothing_to_do_it_does_nothing() -> None:
    """The way of every charge costs nobody anything who asked for nothing."""
    assert not Privacy(key=KEY).active
    assert Privacy(("user",), key=KEY).active


def test_the_key_of_a_running_total_holds_no_session() -> None:
    """It is stored as well; whose total it is stays told apart."""
    privacy = Privacy(("session",), key=KEY)
    key = ("acme", "shop", "scope", "agent", "session-1")
    assert privacy.source(key)[:4] == key[:4]
    assert privacy.source(key)[4] == privacy.hash("session", "session-1")
    assert privacy.sources({key: (1, 2)}) == {privacy.source(key): (1, 2)}
    assert privacy.source((*key[:4], "")) == (*key[:4], ""), "no session is no session"
    assert Privacy(("user",), key=KEY).source(key) == key


def test_a_forgotten_user_is_named_only_by_what_begins_later() -> None:
    """Of one account or of all; what was asked for stays asked for until no span can be open any more."""
    privacy = Privacy(key=KEY)
    privacy.forget(Forgotten("acme", privacy.told("ada"), before_unix_nano=100))
    before, other, later = (
        charge(1, user="ada", start_unix_nano=99), charge(2, account="bank", user="ada", start_unix_nano=99),
        charge(3, user="ada", start_unix_nano=100),
    )  # fmt: skip
    assert [each.user for each in privacy.applied([before, other, later])] == [None, "ada", "ada"]
    privacy.forget(Forgotten("", privacy.told("ada"), before_unix_nano=50))
    assert [each.user for each in privacy.applied([before, other])] == [None, "ada"], "an earlier moment takes nothing back"
    privacy.forget(Forgotten("", privacy.told("ada"), before_unix_nano=200))
    assert [each.user for each in privacy.applied([before, other, later])] == [None, None, None]
    privacy.remember(before_unix_nano=201)
    assert not privacy.active


def test_a_user_is_named_by_hash_too() -> None:
    """Whoever only knows what reports show can still ask."""
    privacy = Privacy(("user",), key=KEY)
    shown = privacy.hash("user", "ada")
    assert privacy.told(shown) == privacy.told("ada") == shown
    assert privacy.spellings("ada") == ("ada", shown)
    assert privacy.spellings(shown) == (shown,)
    assert privacy.told("hash:ada") == privacy.hash("user", "hash:ada"), "what only looks like one is a name"


# --- the key's file ---------------------------------------------------------------------------------------------------------


def test_the_key_is_made_once_and_is_its_owners(tmp_path: Path) -> None:
    """The same key at each start, 256 random bits that nobody else can read, and no half of a file left beside it."""
    key = ensure_key(tmp_path)
    assert len(key) == 32
    assert ensure_key(tmp_path) == key
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert [file.name for file in tmp_path.iterdir()] == [FILE]
    other = tmp_path / "other"
    other.mkdir()
    assert ensure_key(other) != key


@pytest.mark.parametrize("text", ["", "not hex", "ab" * 31, "ab" * 33])
def test_a_broken_key_is_refused_and_never_replaced(tmp_path: Path, text: str) -> None:
    """Another key would give every name another hash in silence."""
    (tmp_path / FILE).write_text(text)
    (tmp_path / FILE).chmod(0o600)
    with pytest.raises(KeyUnusable, match="restore it"):
        ensure_key(tmp_path)
    assert (tmp_path / FILE).read_text() == text


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """It may be known already; the sentence says what to do."""
    ensure_key(tmp_path)
    (tmp_path / FILE).chmod(0o644)
    with pytest.raises(KeyUnusable, match="chmod 600"):
        ensure_key(tmp_path)


def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    """A missing folder is an error with a sentence, not a traceback."""
    with pytest.raises(KeyUnusable, match="cannot be used"):
        ensure_key(tmp_path / "nowhere")


# --- series -----------------------------------------------------------------------------------------------------------------


def test_a_series_is_renamed_with_all_it_counted() -> None:
    """The numbers stay in their row, new calls of the name begin a new one, and no value takes more room than before."""
    series = Series(
        ("account", "user"), width=1, fixed=frozenset(), most_per_account=8, most=8, overflowed=lambda _: pytest.fail("nothing is folded")
    )
    for number, account in enumerate(("acme", "bank")):
        series.row((account, "ada"), now_unix_nano=1)[0] += number + 1
    assert series.rename("user", {"ada": "forgotten-1"}, account="acme") == 1
    assert series.series == {("bank", "ada"): [2, 1], ("acme", "forgotten-1"): [1, 1]}
    series.row(("acme", "ada"), now_unix_nano=2)[0] += 5
    assert series.series["acme", "ada"] == [5, 2]
    assert series.series["acme", "forgotten-1"] == [1, 1]
    assert series.rename("user", {"nobody": "x"}) == 0
