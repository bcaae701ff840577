"""Which parts one worker does one after the other, so that a file is not read anew for each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise

from cluster.encoding.parts import Part

Stretch = list[tuple[int, Part]]
# reading n stretches of a file costs (n + 1) / 2 times as much as reading it once
_MOST = 8


def stretches(parts: Sequence[Part], wanted: int) -> list[Stretch]:
    """Returns all parts, each with its number, in runs that one worker reads in order.

    Parts that are read from one place (see `Part.entry`) stay together, but for what it takes to have
    about ``wanted`` stretches. How they are cut changes nothing about the parts and their names.
    """
    families = [
        list(family)
        for _, family in groupby(enumerate(parts), lambda part: (part[1].file, part[1].read_from))
    ]
    each = min(_MOST, math.ceil(wanted / max(1, len(families))))
    return [stretch for family in families for stretch in _cut(family, each)]


def _cut(family: Stretch, pieces: int) -> Iterator[Stretch]:
    count = min(max(1, pieces), len(family))
    cuts = [len(family) * n // count for n in range(count + 1)]
    return (family[start:stop] for start, stop in pairwise(cuts))
