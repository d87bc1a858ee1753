"""The fields of a JSON body, read strictly: a field that is not known is a typing error that must not pass in silence."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Final

from receiver.config.kinds import Kind, Wrong
from receiver.errors import InvalidValue

_SHOWN_CHARACTERS: Final = 64  #: of what was sent, in the sentence that refuses it


def read_fields(body: Mapping[str, Any], kinds: Mapping[str, Kind], *, required: tuple[str, ...] = ()) -> dict[str, Any]:
    """The values of the fields that are there; null stays None.

    Args:
        body: what was sent.
        kinds: every field that is known, with what it may hold (the kinds of the configuration).
        required: those that must be there, and not null.

    Raises:
        InvalidValue: a field is unknown, missing, or holds what it may not.
    """
    read: dict[str, Any] = {}
    for name, found in body.items():
        if name not in kinds:
            near = difflib.get_close_matches(name, kinds, 1)
            meant = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(kinds)}" if kinds else ""
            raise InvalidValue(f"{name[:_SHOWN_CHARACTERS]!r} is no field of this request{meant}")
        try:
            read[name] = None if found is None else kinds[name].check(found)
        except Wrong as wrong:
            because = f" ({wrong})" if str(wrong) else ""
            raise InvalidValue(f"{name}: found {_shown(found)}{because}, allowed: {kinds[name].allowed}") from None
    for name in required:
        if read.get(name) is None:
            raise InvalidValue(f"{name}: is missing, allowed: {kinds[name].allowed}")
    return read


def _shown(found: Any) -> str:
    text = repr(found)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"
