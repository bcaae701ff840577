"""The parser of the command line: argparse's, which also says what a misspelt option may have meant."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from itertools import takewhile
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """Refuses an unknown option before anything else, since argparse would first ask for missing ones.

    An option has to be written in full: what looks like an abbreviation may be a typo.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **options})

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse's; the parsers of the commands get their words from the one above them."""
        for word in takewhile(self._may_be_option, sys.argv[1:] if args is None else args):
            self._check(word.partition("=")[0])
        return super().parse_known_args(args, namespace)

    def _may_be_option(self, word: str) -> bool:
        """Whether this word and those after it may be options of this parser, not of a command."""
        return word != "--" and (self._subparsers is None or word.startswith("-"))

    def _check(self, word: str) -> None:
        if " " in word:  # for argparse, that is a value
            return
        known = [option for action in self._actions for option in action.option_strings]
        if not word.startswith("--") or word in known:
            return
        close = get_close_matches(word, known, 1)
        self.error(f"unknown option {word}{f', did you mean {close[0]}?' if close else ''}")

    def error(self, message: str) -> NoReturn:
        """Ends with one line; argparse's own usage hides it below a dozen others."""
        self.exit(2, f"{self.prog}: {message} (`{self.prog} --help` shows all options)\n")
