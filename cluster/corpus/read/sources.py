"""An input file of which several parts are read: each goes on where the one before it ended.

A compressed file can only be read from its start, and a Parquet row group decoded from its own; to
begin there again for each part would cost the square of their number. Nothing is closed by hand: a
thread may still read when its task is cancelled, and the last reference closes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from pyarrow import parquet as pq

from cluster.corpus.plan.inputs import InputFile

_BLOCK = 1 << 20
_BATCH = 4_096


class LineSource:
    """The decompressed bytes of a file of lines. Opens the file when it is first read."""

    def __init__(self, filesystem: Any, file: InputFile) -> None:
        self._filesystem = filesystem
        self._file = file
        self._stream: Any = None
        self._at = 0

    def read(self, start: int, stop: int) -> bytes:
        """Returns the bytes from ``start`` to ``stop``; what lies before the last read costs most."""
        if not self._file.compression:
            with self._filesystem.open_input_file(self._file.path) as handle:
                handle.seek(start)
                found: bytes = handle.read(stop - start)
                return found
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
        found: bytes = self._stream.read(size)
        self._at += len(found)
        return found


class RowSource:
    """The rows of a Parquet file. Opens the file when it is first read."""

    def __init__(self, filesystem: Any, file: InputFile) -> None:
        self._filesystem = filesystem
        self._file = file
        self._columns: Sequence[str] = ()
        self._batches: Iterator[Any] | None = None
        self._held: Any = None
        self._at = 0

    def read(self, start: int, stop: int, columns: Sequence[str]) -> list[Any]:
        """Returns the rows from ``start`` to ``stop`` as Arrow batches."""
        if self._batches is None or start < self._at or columns != self._columns:
            self._reopen(start, columns, min(_BATCH, max(1, stop - start)))
        found = []
        while self._at < stop and (batch := self._next()) is not None:
            taken = min(stop - self._at, len(batch))
            skipped = max(0, start - self._at)
            if skipped < taken:
                found.append(batch.slice(skipped, taken - skipped))
            self._at += taken
            self._held = batch.slice(taken) if taken < len(batch) else None
        return found

    def _next(self) -> Any:
        assert self._batches is not None
        return self._held if self._held is not None else next(self._batches, None)

    def _reopen(self, start: int, columns: Sequence[str], rows: int) -> None:
        """``rows`` at a time: the next parts are as long, and more would be held for nothing."""
        handle = self._filesystem.open_input_file(self._file.path)
        # a buffer, so that a row group is streamed and not held whole
        source = pq.ParquetFile(handle, buffer_size=1 << 20, pre_buffer=False)
        firsts = group_starts(source.metadata)
        from_here = [n for n, end in enumerate(firsts[1:]) if end > start]
        self._columns, self._held = columns, None
        self._at = firsts[from_here[0]] if from_here else firsts[-1]
        self._batches = (
            batch
            for group in from_here
            for batch in source.iter_batches(rows, row_groups=[group], columns=list(columns))
        )


Source = LineSource | RowSource


def source_of(filesystem: Any, file: InputFile) -> Source:
    """Returns what reads a file's parts, in their order best."""
    kind = RowSource if file.format == "parquet" else LineSource
    return kind(filesystem, file)


def group_starts(metadata: Any) -> list[int]:
    """Returns the number of the first row of each row group, the end last."""
    groups = range(metadata.num_row_groups)
    return list(accumulate((metadata.row_group(n).num_rows for n in groups), initial=0))
