"""A QR code in the terminal, small enough for an invoice and readable by a phone.

Two modules stand in one character, as half blocks. Colours are stated, black on white: a code that is drawn in the terminal's own
colours is inverted on a dark one, and many scanners do not read that.
"""

from __future__ import annotations

from typing import Final

import segno
from rich.style import Style
from rich.text import Text

#: Light modules around the code. ISO/IEC 18004 asks for 4, phones read 2, and 24 rows are soon full.
_BORDER: Final = 2
#: By (upper, lower) being dark.
_HALVES: Final = {(False, False): " ", (True, False): "▀", (False, True): "▄", (True, True): "█"}
_BLACK_ON_WHITE: Final = Style(color="#000000", bgcolor="#ffffff")


def modules(content: str) -> list[list[bool]]:
    """The code's rows, True where a module is dark, its border included.

    The lowest level of error correction: nothing smudges a screen, and the code is smallest so. Upper case is packed closer.
    """
    code = segno.make(content, error="l", boost_error=False, micro=False)
    return [[bool(dark) for dark in row] for row in code.matrix_iter(border=_BORDER)]


def terminal_qr(content: str, *, colour: bool = True) -> Text:
    """The code as lines of half blocks. Without `colour` it is drawn for a dark terminal: light modules are the ones that are painted."""
    rows = modules(content)
    if len(rows) % 2:
        rows.append([False] * len(rows[0]))  # one more light row below
    pairs = zip(rows[::2], rows[1::2], strict=True)
    if not colour:
        inverted = [[(not upper, not lower) for upper, lower in zip(*pair, strict=True)] for pair in pairs]
        return Text("\n".join("".join(_HALVES[cell] for cell in row) for row in inverted), no_wrap=True, overflow="crop")
    lines = ["".join(_HALVES[cell] for cell in zip(*pair, strict=True)) for pair in pairs]
    return Text("\n", no_wrap=True, overflow="crop").join(Text(line, style=_BLACK_ON_WHITE) for line in lines)
