"""What arguments may be; each raises ArgumentTypeError, which argparse prints.

The arguments of ``embedfleet encode``. Loads nothing slow, since every command reads them.
"""

from __future__ import annotations

import argparse

from deployments.core.models.spec import Role

PORTS = range(1, 65_536)
DEFAULT_URL = "http://127.0.0.1:8000"


def positive(text: str) -> int:
    """Returns a whole number from 1 on."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def port(text: str) -> int:
    """Returns a number that a port can have."""
    if (number := positive(text)) not in PORTS:
        raise argparse.ArgumentTypeError(f"{text!r} is no port; the last is {PORTS[-1]}")
    return number


def add_arguments(encode: argparse.ArgumentParser) -> None:
    """Describes the command."""
    encode.add_argument("input", metavar="INPUT", help="a file, a folder or a glob; local or a URI")
    encode.add_argument("output", metavar="OUTPUT", help="a folder, also the place to go on from")
    encode.add_argument("--model", required=True, help="a model's name, hub id or size")
    _add_columns(encode)
    _add_vectors(encode)
    encode.add_argument(
        "--format", choices=("parquet", "lance"), default="parquet", help="default: parquet"
    )
    encode.add_argument(
        "--part-mb", type=float, default=2.0, help="megabytes of text in one file (default: 2)"
    )
    encode.add_argument("--workers", type=positive, help="CPU actors (default: one for four CPUs)")
    encode.add_argument(
        "--address", help="the Ray cluster (default: RAY_ADDRESS, or the local one)"
    )
    encode.add_argument(
        "--start",
        nargs="?",
        const="serve_config.yaml",
        metavar="CONFIG",
        help="run the service for this job's time if it does not run",
    )
    encode.add_argument(
        "--price-per-replica-hour", type=float, metavar="PRICE", help="shows what the job costs"
    )


def _add_columns(encode: argparse.ArgumentParser) -> None:
    encode.add_argument("--text-column", default="text", metavar="NAME", help="default: text")
    encode.add_argument("--id-column", metavar="NAME", help="default: from content and position")
    encode.add_argument(
        "--keep", action="append", default=[], metavar="COLUMNS", help="to carry along: a,b,c"
    )
    encode.add_argument("--limit", type=int, metavar="ROWS", help="only the first so many rows")
    encode.add_argument(
        "--input-format",
        choices=("parquet", "json", "csv", "text"),
        help="default: by the files' names",
    )


def _add_vectors(encode: argparse.ArgumentParser) -> None:
    encode.add_argument(
        "--role",
        choices=[role.value for role in Role],
        help="default: the one in the model's name; else query with --instruction, else document",
    )
    encode.add_argument(
        "--instruction", metavar="TEXT", help="the task, for queries of instruct models"
    )
    encode.add_argument(
        "--dimensions", type=positive, help="fewer than the model's, for Matryoshka models"
    )
    encode.add_argument(
        "--dtype", choices=("float32", "float16"), default="float32", help="default: float32"
    )
    encode.add_argument("--truncate", action="store_true", help="cut long texts, not reject them")
    encode.add_argument("--chunk", type=int, metavar="TOKENS", help="divide texts")
    encode.add_argument(
        "--overlap", type=int, default=0, metavar="TOKENS", help="of a chunk with the next"
    )
