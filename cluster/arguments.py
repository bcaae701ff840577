"""The arguments of ``embedfleet encode``, and the types of numeric arguments.

Imports nothing slow, because every command loads this file.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import get_args

from cluster.corpus.settings import Dtype
from deployments.core.models.spec import Role

PORTS = range(1, 65_536)
DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_CONFIG = "serve_config.yaml"


def default_config() -> str:
    """Returns the config of the current folder, or, if it has none, the one that is installed with us."""
    here = Path(DEFAULT_CONFIG)
    return DEFAULT_CONFIG if here.exists() else str(Path(__file__).with_name(DEFAULT_CONFIG))


def positive(text: str) -> int:
    """Parses a whole number from 1. Raises ArgumentTypeError, which argparse prints."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def port(text: str) -> int:
    """Parses a port number. Raises ArgumentTypeError."""
    if (number := positive(text)) not in PORTS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: the highest is {PORTS[-1]}")
    return number


def threads(text: str) -> int | str:
    """Parses a number of threads, or `auto`. Raises ArgumentTypeError."""
    return text if text == "auto" else positive(text)


def service_url(text: str) -> str:
    """Returns the URL of a service, of which the scheme may be missing and OpenAI's `/v1` may be part."""
    url = text if "://" in text else f"http://{text}"
    return url.rstrip("/").removesuffix("/v1")


def add_arguments(encode: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``embedfleet encode``."""
    encode.add_argument("input", metavar="INPUT", help="a file, a folder or a glob; local or a URI")
    encode.add_argument(
        "output", metavar="OUTPUT", help="a folder; run the command again to resume in it"
    )
    encode.add_argument("--model", required=True, help="a model's name, Hugging Face id or size")
    _add_columns(encode)
    _add_vectors(encode)
    encode.add_argument(
        "--format", choices=("parquet", "lance"), default="parquet", help="default: parquet"
    )
    encode.add_argument(
        "--part-mb",
        type=float,
        default=2.0,
        help="megabytes of text per output file, the unit of resuming (default: 2)",
    )
    encode.add_argument(
        "--workers",
        type=positive,
        help="CPU processes that read and tokenize (default: one for every four CPUs)",
    )
    encode.add_argument(
        "--wait",
        type=float,
        default=900.0,
        metavar="SECONDS",
        help="how long to wait for a service that stops answering (default: 900)",
    )
    encode.add_argument(
        "--address", help="the Ray cluster (default: RAY_ADDRESS, or the one of the service here)"
    )
    encode.add_argument(
        "--url",
        type=service_url,
        default=os.environ.get("EMBEDFLEET_URL"),
        help="the service, if several run on this machine (default: EMBEDFLEET_URL)",
    )
    encode.add_argument(
        "--start",
        nargs="?",
        const=default_config(),
        metavar="CONFIG",
        help="start the service for this job if it is not running",
    )
    encode.add_argument(
        "--price-per-replica-hour", type=float, metavar="PRICE", help="show what the job costs"
    )


def _add_columns(encode: argparse.ArgumentParser) -> None:
    encode.add_argument("--text-column", default="text", metavar="NAME", help="default: text")
    encode.add_argument(
        "--id-column", metavar="NAME", help="default: ids derived from content and position"
    )
    encode.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="COLUMNS",
        help="columns to copy to the output: a,b,c",
    )
    encode.add_argument("--limit", type=int, metavar="ROWS", help="encode only the first ROWS rows")
    encode.add_argument(
        "--input-format",
        choices=("parquet", "json", "csv", "text"),
        help="default: from the files' names",
    )
    encode.add_argument(
        "--delimiter",
        metavar="CHARACTER",
        help="between the fields of CSV (default: a comma, a tab in .tsv files)",
    )


def _add_vectors(encode: argparse.ArgumentParser) -> None:
    encode.add_argument(
        "--role",
        choices=[role.value for role in Role],
        help="default: the role in the model's name, else query with --instruction, else document",
    )
    encode.add_argument(
        "--instruction", metavar="TEXT", help="the task that queries of an instruct model are for"
    )
    encode.add_argument(
        "--dimensions",
        type=positive,
        help="fewer dimensions than the model's, for Matryoshka models",
    )
    encode.add_argument(
        "--dtype",
        "--output-dtype",
        choices=get_args(Dtype),
        default="float32",
        help="how vectors are written (default: float32)",
    )
    encode.add_argument(
        "--truncate",
        action="store_true",
        help="cut texts over the model's limit instead of rejecting them",
    )
    encode.add_argument(
        "--chunk", type=int, metavar="TOKENS", help="divide texts into chunks of this many tokens"
    )
    encode.add_argument(
        "--overlap",
        type=int,
        default=0,
        metavar="TOKENS",
        help="tokens that a chunk shares with the next",
    )
