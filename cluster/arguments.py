"""The arguments of ``embedfleet encode`` and ``embedfleet score``, and the types of numeric arguments.

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


def add_encode_arguments(encode: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``embedfleet encode``."""
    _add_places(encode)
    encode.add_argument("--text-column", default="text", metavar="NAME", help="default: text")
    _add_columns(encode)
    _add_vectors(encode)
    _add_run(encode)


def add_score_arguments(score: argparse.ArgumentParser) -> None:
    """Adds the arguments of ``embedfleet score``."""
    _add_places(score)
    score.add_argument("--query-column", default="query", metavar="NAME", help="default: query")
    score.add_argument(
        "--document-column", default="document", metavar="NAME", help="default: document"
    )
    _add_columns(score)
    score.add_argument(
        "--instruction", metavar="TEXT", help="the task of the queries, if the reranker takes one"
    )
    score.add_argument(
        "--raw-scores",
        action="store_true",
        help="write logits instead of the scores that the model's files ask for",
    )
    score.add_argument(
        "--truncate",
        action="store_true",
        help="cut pairs over the model's limit, the longer text first, instead of rejecting them",
    )
    _add_run(score)


def _add_places(job: argparse.ArgumentParser) -> None:
    job.add_argument("input", metavar="INPUT", help="a file, a folder or a glob; local or a URI")
    job.add_argument(
        "output", metavar="OUTPUT", help="a folder; run the command again to resume in it"
    )
    job.add_argument("--model", required=True, help="a model's name, Hugging Face id or size")


def _add_run(job: argparse.ArgumentParser) -> None:
    job.add_argument(
        "--format", choices=("parquet", "lance"), default="parquet", help="default: parquet"
    )
    job.add_argument(
        "--part-mb",
        type=float,
        default=2.0,
        help="megabytes of text per output file, the unit of resuming (default: 2)",
    )
    job.add_argument(
        "--workers",
        type=positive,
        help="CPU processes that read and tokenize (default: one for every four CPUs)",
    )
    job.add_argument(
        "--wait",
        type=float,
        default=900.0,
        metavar="SECONDS",
        help="how long to wait for a model that is still loading, and for a service that stops answering "
        "(default: 900)",
    )
    job.add_argument(
        "--address", help="the Ray cluster (default: RAY_ADDRESS, or the one of the service here)"
    )
    job.add_argument(
        "--url",
        type=service_url,
        default=os.environ.get("EMBEDFLEET_URL"),
        help="the service, if several run on this machine (default: EMBEDFLEET_URL)",
    )
    job.add_argument(
        "--start",
        nargs="?",
        const=default_config(),
        metavar="CONFIG",
        help="start the service for this job if it is not running",
    )
    job.add_argument(
        "--price-per-replica-hour", type=float, metavar="PRICE", help="show what the job costs"
    )


def _add_columns(job: argparse.ArgumentParser) -> None:
    job.add_argument(
        "--id-column", metavar="NAME", help="default: ids derived from content and position"
    )
    job.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="COLUMNS",
        help="columns to copy to the output: a,b,c",
    )
    job.add_argument("--limit", type=int, metavar="ROWS", help="take only the first ROWS rows")
    job.add_argument(
        "--input-format",
        choices=("parquet", "json", "csv", "text"),
        help="default: from the files' names",
    )
    job.add_argument(
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
