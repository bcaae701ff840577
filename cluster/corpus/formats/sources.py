"""An input file whose parts are read one after the other; each read continues where the last ended.

A compressed file can only be read from its start, and a Parquet row group only from its first row.
Starting there again for each part would take quadratic time. Files are not closed explicitly: a thread
may still be reading when its task is cancelled, and dropping the last reference closes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from pyarrow import parquet as pq

from cluster.corpus.formats.files import InputFile

_BLOCK = 1 << 20
_BATCH_ROWS = 4_096


class LineSource:
    """The decompressed bytes of a text file, which is opened by the first read."""

    def __init__(self, filesystem: Any, file: InputFile) -> None:
        self._filesystem = filesystem
        self._file = file
        self._stream: Any = None
        self._at = 0

    def read(self, start: int, stop: int) -> bytes:
        """Returns the bytes from ``start`` to ``stop``. Going back in a compressed file reopens it."""
        if not self._file.compression:
            with self._filesystem.open_input_file(self._file.path) as handle:
                handle.seek(start)
                data: bytes = handle.read(stop - start)
                return data
        if self._stream is None or start < self._at:
            self._reopen()
        while self._at < start and self._take(min(_BLOCK, start - self._at)):
            pass
        return self._take(stop - self._at)

    def _reopen(self) -> None:
        self._stream = self._filesystem.open_input_stream(
            self._file.path, compression=self._file.compression
        )
        self._at = 0

    def _take(self, size: int) -> bytes:
        data: bytes = self._stream.read(size)
        self._at += len(data)
        return data


class RowSource:
    """The rows of a Parquet file, which is opened by the first read."""

    def __init__(self, filesystem: Any, file: InputFile) -> None:
        self._filesystem = filesystem
        self._file = file
        self._columns: Sequence[str] = ()
        self._batches: Iterator[Any] | None = None
        self._rest: Any = None
        self._at = 0

    def read(self, start: int, stop: int, columns: Sequence[str]) -> list[Any]:
        """Returns the rows from ``start`` to ``stop`` as Arrow batches."""
        if self._batches is None or start < self._at or columns != self._columns:
            self._reopen(start, columns, min(_BATCH_ROWS, max(1, stop - start)))
        batches = []
        while self._at < stop and (batch := self._next()) is not None:
            taken = min(stop - self._at, len(batch))
            skipped = max(0, start - self._at)
            if skipped < taken:
                batches.append(batch.slice(skipped, taken - skipped))
            self._at += taken
            self._rest = batch.slice(taken) if taken < len(batch) else None
        return batches

    def _next(self) -> Any:
        assert self._batches is not None
        return self._rest if self._rest is not None else next(self._batches, None)

    def _reopen(self, start: int, columns: Sequence[str], rows: int) -> None:
        """Reads ``rows`` rows at a time: a part needs no more, and decoded rows take memory."""
        handle = self._filesystem.open_input_file(self._file.path)
        # with a buffer, a row group is streamed instead of held as a whole
        source = pq.ParquetFile(handle, buffer_size=1 << 20, pre_buffer=False)
        starts = group_starts(source.metadata)
        groups = [n for n, end in enumerate(starts[1:]) if end > start]
        self._columns, self._rest = columns, None
        self._at = starts[groups[0]] if groups else starts[-1]
        self._batches = (
            batch
            for group in groups
            for batch in source.iter_batches(rows, row_groups=[group], columns=list(columns))
        )


Source = LineSource | RowSource


def source_of(filesystem: Any, file: InputFile) -> Source:
    """Returns a source for a file's parts; it is fastest when they are read in order."""
    kind = RowSource if file.format == "parquet" else LineSource
    return kind(filesystem, file)


def group_starts(metadata: Any) -> list[int]:
    """Returns the number of the first row of each row group; the last is the end."""
    groups = range(metadata.num_row_groups)
    return list(accumulate((metadata.row_group(n).num_rows for n in groups), initial=0))
