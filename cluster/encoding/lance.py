"""The Lance sink: the parts, once all are there, as one Lance dataset in one commit."""

from __future__ import annotations

import importlib.util
from importlib.metadata import version

from cluster.encoding.failures import JobError
from cluster.encoding.output import Output

NAME = "vectors.lance"


def check_lance() -> None:
    """Raises JobError when the library is missing, or is one that Ray Data cannot write with.

    Ray 2.60 passes ``storage_options_provider``, which pylance has had up to version 4.
    """
    install = "pip install 'pylance>=2,<5'"
    if importlib.util.find_spec("lance") is None:
        raise JobError(f"--format lance needs the package pylance: {install}")
    if not 2 <= int(version("pylance").split(".")[0]) < 5:
        raise JobError(f"this Ray cannot write with pylance {version('pylance')}: {install}")


def write_lance(output: Output) -> None:
    """Writes ``vectors.lance`` through Ray Data's own writer.

    Lance shows a version only once it is committed, so a job that is killed here writes it again.
    """
    import ray.data
    from ray.data import SaveMode

    parts = ray.data.read_parquet(output.parts)
    parts.write_lance(f"{output.root}/{NAME}", mode=SaveMode.OVERWRITE)
