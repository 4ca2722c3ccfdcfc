"""Progress of long work: a bar on a terminal, and a line every ten seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

from denseface.core.text import printable

_SECONDS = 10.0


class ProgressBar(tqdm):
    """A bar of tqdm; where standard error is not a terminal, a line every ten seconds.

    Parameters
    ----------
    iterable : iterable, optional
        Iterating over the bar iterates over it, and counts.
    desc : str, optional
        What is done. It is escaped, since it may come from the name of a file.
    total : int, optional
        The number of units, if it is known.
    unit : str
        What is counted.
    leave : bool
        Whether the bar stays on the terminal at the end.
    disable : bool
        Show nothing at all.

    Examples
    --------
    >>> with ProgressBar(total=2, unit="picture") as bar:
    ...     bar.update(2)
    """

    def __init__(
        self,
        iterable: Iterable[Any] | None = None,
        desc: str | None = None,
        total: int | None = None,
        *,
        unit: str = "step",
        leave: bool = True,
        disable: bool = False,
    ):
        self._what = printable(desc) + ": " if desc else ""
        self._units = unit + "s"
        self._started = self._told = time.monotonic()
        self._prints = not disable and not sys.stderr.isatty()
        super().__init__(
            iterable, desc and printable(desc), total, unit=unit, leave=leave, disable=disable or self._prints
        )

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the bar's iterable."""
        if not self._prints:
            yield from super().__iter__()
            return
        for item in self.iterable:
            yield item
            self.update(1)

    def update(self, n: float = 1) -> bool | None:
        """Count some units as done."""
        if not self._prints:
            return super().update(n)
        self.n += n
        now = time.monotonic()
        if now - self._told >= _SECONDS:
            self._told = now
            of_all = f" of {self.total:,} ({self.n / self.total:.0%})" if self.total else ""
            rate = self.n / (now - self._started)
            print(f"{self._what}{self.n:,}{of_all} {self._units}, {rate:.3g} per second", file=sys.stderr, flush=True)
        return None
