"""A stage of a Ray Data pipeline: adds the vectors of a text column, encoded by the service."""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, Dataset
from ray.exceptions import RayError

from cluster.corpus.connect import JobModel, connect, wait_for_model
from cluster.corpus.cpus import free_cpus, worker_cpus
from cluster.corpus.encode.row_encoder import RowEncoder, Target
from cluster.corpus.errors import JobError
from cluster.corpus.prepare.documents import Documents, TextOptions
from cluster.corpus.read.rows import Rows, column_values
from cluster.corpus.write.assemble import reject_unwritable
from cluster.corpus.write.manifest import Identity, identity_of
from cluster.corpus.write.parquet import list_column
from deployments.core.batch import Vectors
from deployments.core.engine.cpu.priority import give_way
from deployments.core.errors import EmbedfleetError
from deployments.core.models.spec import GIVE_VECTORS, Kind, Role
from deployments.core.quantization import OutputDtype, quantized
from deployments.core.sparse import SparseVectors

log = logging.getLogger(__name__)
_CPUS_PER_TASK = 1.0  # Ray Data's default
_CPUS_PER_WORKER = 4
_BLOCKS_PER_WORKER = 2  # one is encoded while the next is prepared and the last one assembled
_FOLLOW_S = 2.0


@dataclass(frozen=True)
class Columns:
    """The column of the texts, and those that are added."""

    text: str
    embedding: str
    error: str

    def check(self, names: list[str]) -> None:
        """Raises JobError if a dataset with these columns cannot be encoded."""
        if self.text not in names:
            raise JobError(
                f"text_column {self.text!r} is not in the dataset, which has {', '.join(names)}"
            )
        if self.embedding == self.error:
            raise JobError(f"embedding_column and error_column are both {self.error!r}; rename one")
        if taken := {self.embedding, self.error} & {*names}:
            raise JobError(
                f"the dataset already has the column {', '.join(sorted(taken))}: drop it, or set "
                "embedding_column and error_column"
            )


class EmbedWorker:
    """Encodes batches of rows. Ray Data calls it with several at a time, in one event loop."""

    def __init__(
        self, target: Target, columns: Columns, dtype: OutputDtype = OutputDtype.FLOAT32
    ) -> None:
        give_way()
        # at INFO, Serve reports each new connection to the service on the pipeline's terminal
        logging.getLogger("ray.serve").setLevel(logging.WARNING)
        self._encoder = RowEncoder(target)
        self._columns = columns
        self._dtype = dtype
        self._following: asyncio.Task[None] | None = None

    async def __call__(self, table: pa.Table) -> pa.Table:
        """Returns the rows with their vectors, in order; those without one have the reason.

        Raises JobError if replicas stay away, or refuse all texts.
        """
        self._columns.check(table.column_names)
        if self._following is None:
            self._following = asyncio.get_running_loop().create_task(self._follow())
        texts = column_values(table[self._columns.text])
        rows = Rows(range(len(texts)), texts, None, {})
        try:
            preprocessor, documents = await self._encoder.prepare(rows)
            vectors = await self._encoder.encode(preprocessor, documents, lambda *_: None)
            assert not isinstance(vectors, SparseVectors)  # `embed` has refused such models
        except EmbedfleetError as error:
            raise JobError(str(error)) from None  # its class may not be known to the pipeline
        return await asyncio.to_thread(self._with_vectors, table, documents, vectors)

    def _with_vectors(self, table: pa.Table, documents: Documents, vectors: Vectors) -> pa.Table:
        reject_unwritable(vectors, documents, self._dtype)
        missing = np.zeros(len(table), bool)
        missing[list(documents.rejected)] = True
        rows = [item.row for item in documents.items]
        kept = [n for n, row in enumerate(rows) if not missing[row]]
        numbers = quantized(vectors[kept], self._dtype)
        of_rows = np.zeros((len(table), numbers.shape[1]), numbers.dtype)
        of_rows[[rows[n] for n in kept]] = numbers
        reasons = [documents.rejected.get(row) for row in range(len(table))]
        table = table.append_column(self._columns.embedding, list_column(of_rows, missing))
        return table.append_column(self._columns.error, pa.array(reasons, pa.string()))

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_FOLLOW_S)
            with suppress(RayError):  # the calls themselves find out whether the service has gone
                await self._encoder.follow()


def embed(  # noqa: PLR0913
    dataset: Dataset,
    *,
    model: str,
    text_column: str = "text",
    role: str | None = None,
    instruction: str | None = None,
    dimensions: int | None = None,
    output_dtype: str = "float32",
    truncate: bool = False,
    concurrency: int | tuple[int, int] | None = None,
    batch_size: int = 512,
    embedding_column: str = "embedding",
    error_column: str = "embedding_error",
    address: str | None = None,
    url: str | None = None,
    wait_s: float = 900.0,
) -> Dataset:
    """Returns the dataset with a vector for each text, encoded behind the service's live traffic.

    Like all stages, it runs when the dataset is consumed, and streams. ``embedding_column`` holds
    fixed-size lists of ``output_dtype`` (as for ``/v1/embeddings``), null in the rows that have no
    vector; ``error_column`` says why: null, empty or not text, over the model's limit without
    ``truncate``, or a text that kills replicas.

    ``concurrency`` is the number of CPU workers, or its bounds, as for `Dataset.map_batches` (default:
    one for every four CPUs). ``batch_size`` is in rows; texts of a batch are sorted by length.
    ``address`` and ``url`` say where the service is, unless this process is connected to its Ray.
    ``wait_s`` is how long a model that is still loading, or a service that stops answering, is waited
    for; then the pipeline fails.

    Raises JobError if no service answers, if it does not have the model, or if the model cannot honour
    the arguments.
    """
    columns = Columns(text_column, embedding_column, error_column)
    if (names := dataset.columns(fetch_if_missing=False)) is not None:
        columns.check(names)
    if batch_size < 1:
        raise JobError(f"batch_size must be 1 or more, not {batch_size}")
    if not 0 < wait_s < math.inf:
        raise JobError(f"wait_s must be a finite number above 0, not {wait_s}")
    if role not in (None, *Role):
        raise JobError(f"role must be {' or '.join(map(repr, map(str, Role)))}, not {role!r}")
    if output_dtype not in list(OutputDtype):
        choice = ", ".join(map(repr, map(str, OutputDtype)))
        raise JobError(f"output_dtype must be one of {choice}, not {output_dtype!r}")
    dtype = OutputDtype(output_dtype)
    connect(address, url)
    served = wait_for_model(model, GIVE_VECTORS, wait_s, log.warning)
    pool = _pool(concurrency)
    identity = _identity(served, role, instruction, dimensions, dtype)
    target = _target(served, identity, pool.max_size, truncate, wait_s)
    return dataset.map_batches(
        EmbedWorker,
        batch_size=batch_size,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=pool,
        num_cpus=_cpus_of_a_worker(pool),
        fn_constructor_args=(target, columns, dtype),
    )


def _pool(concurrency: int | tuple[int, int] | None) -> ActorPoolStrategy:
    cpus = ray.cluster_resources().get("CPU", 1)
    size = concurrency or max(1, int(cpus // _CPUS_PER_WORKER))
    least, most = size if isinstance(size, tuple) else (size, size)
    return ActorPoolStrategy(
        min_size=least, max_size=most, max_concurrent_calls_per_actor=_BLOCKS_PER_WORKER
    )


def _cpus_of_a_worker(pool: ActorPoolStrategy) -> float:
    """Returns what leaves Ray Data the whole CPU that a task of other steps, such as a read, needs."""
    if (free := free_cpus()) < _CPUS_PER_TASK:
        log.warning(
            "Ray has %g CPUs free, and the pipeline's other steps wait until a task gets %g: lower "
            "`num_cpus` of the service's models, or pass `num_cpus` to those steps",
            free,
            _CPUS_PER_TASK,
        )
    return worker_cpus(pool.max_size, besides=_CPUS_PER_TASK)


def _identity(
    model: JobModel,
    role: str | None,
    instruction: str | None,
    dimensions: int | None,
    dtype: OutputDtype,
) -> Identity:
    served = model.served
    assert served.spec is not None
    if served.spec.kind is Kind.SPARSE:
        raise JobError(
            f"{served.spec.name} gives sparse vectors, which a stage cannot return: use "
            "`embedfleet encode`, or another model"
        )
    try:
        chosen = Role(role) if role else served.role
        return identity_of(served.spec, chosen, instruction, dimensions, dtype)
    except EmbedfleetError as error:
        raise JobError(str(error)) from error


def _target(
    model: JobModel, identity: Identity, workers: int, truncate: bool, wait_s: float
) -> Target:
    served = model.served
    return Target(
        app=model.app,
        config=served.pinned,
        tokens_per_s=served.status.replica.tokens_per_s,
        replicas=served.status.replicas,
        workers=workers,
        options=TextOptions(Role(identity.role), identity.instruction, truncate),
        dimensions=identity.dimensions,
        wait_s=wait_s,
    )
