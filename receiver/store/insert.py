"""INSERT for any number of rows in few statements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import apsw

#: Rows of one statement. Three texts for each table, so that all stay prepared; under 16 KiB each, for APSW prepares longer ones anew.
SIZES: Final = (64, 8, 1)


class Insert:
    """An INSERT into one table. Its rows come as one flat sequence of values."""

    def __init__(self, into: str, *, columns: int, behind: str = "") -> None:
        """`into`: the table, and the names of its columns where not all are given; `behind`: what follows the values."""
        self._columns = columns
        row = f"({','.join('?' * columns)})"
        self._statements = [(size, f"INSERT INTO {into} VALUES {','.join([row] * size)}{behind}") for size in SIZES]  # noqa: S608 -- names of our own
        assert all(len(statement) < 16_384 for _, statement in self._statements)

    def run(self, connection: apsw.Connection, values: Sequence[Any]) -> None:
        """Insert `len(values) / columns` rows, in order."""
        at, end = 0, len(values)
        assert end % self._columns == 0
        for size, statement in self._statements:
            step = size * self._columns
            while end - at >= step:
                connection.execute(statement, values[at : at + step])
                at += step
