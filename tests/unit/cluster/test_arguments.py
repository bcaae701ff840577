"""What arguments of the command line may be."""

from __future__ import annotations

from argparse import ArgumentTypeError

import pytest

from cluster.arguments import port, positive


@pytest.mark.parametrize(("kind", "text", "number"), [(positive, "1", 1), (port, "65535", 65_535)])
def test_numbers(kind, text, number):
    assert kind(text) == number


@pytest.mark.parametrize(
    ("kind", "text"),
    [(kind, text) for kind in (positive, port) for text in ("0", "-1", "1.5", "", "x")]
    + [(port, "65536")],
)
def test_what_is_refused(kind, text):
    with pytest.raises(ArgumentTypeError, match=repr(text)):
        kind(text)
