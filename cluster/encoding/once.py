"""Every id once: rows whose id an earlier part has move from the vectors to the rejects."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa

from cluster.encoding import vetting
from cluster.encoding.duplicates import Ledger, digest
from cluster.encoding.inputs import check_unchanged
from cluster.encoding.manifest import Counts
from cluster.encoding.output import ids_of, reject_table
from cluster.encoding.parts import Part
from cluster.encoding.reading import read_part, texts_of
from cluster.encoding.sources import Source, source_of
from cluster.encoding.worker import Work


def drop_repeated(work: Work, parts: list[Part], ledger: Ledger) -> Counts:
    """Rewrites the parts that repeat ids of earlier ones, and returns what that changes in sum.

    Done once all parts are there. A job that is killed here finds the rest on its next run. Raises
    JobError when the output cannot be written, or a file has changed.
    """
    change, file, source = Counts(), None, None
    for number, repeated in ledger.repeated():
        part = parts[number]
        if file != part.file:
            file, source = part.file, source_of(work.inputs, part.file)
        names = {key: parts[first].file.name for key, first in repeated.items()}
        change += _drop(work, part, names, source)
    return change


def _drop(work: Work, part: Part, names: Mapping[bytes, str], source: Source | None) -> Counts:
    """``names`` are those of the files that have these ids before, by digest."""
    output = work.output
    before = output.done(part.name, work.identity)
    assert before is not None
    table, rejects = output.vectors(part.name), output.rejects(part.name)
    kept = table.filter(pa.array([digest(name) not in names for name in ids_of(table)]))
    rejects = pa.concat_tables([rejects, _rejects(work, part, names, rejects, source)])
    after = replace(
        before,
        documents=before.rows - rejects.num_rows,
        written=kept.num_rows,
        rejected=rejects.num_rows,
    )
    output.commit(part.name, kept, rejects.sort_by("position"), work.identity, after)
    return Counts(
        documents=after.documents - before.documents,
        written=after.written - before.written,
        rejected=after.rejected - before.rejected,
    )


def _rejects(
    work: Work, part: Part, names: Mapping[bytes, str], found: Any, source: Source | None
) -> Any:
    """The rows with these ids that are not among the rejects yet."""
    settings = work.settings
    assert settings.id_column is not None
    rows = read_part(work.inputs, part, settings.text_column, work.carried, source)
    check_unchanged(work.inputs, part.file)
    there = set(found["position"].to_pylist())
    ids = texts_of(rows.carried[settings.id_column])
    new = []
    for position, own, text in zip(rows.positions, ids, rows.texts, strict=True):
        earlier = names.get(digest(own))
        if earlier is not None and position not in there:
            reason = vetting.repeated(earlier)
            new.append((str(own), part.file.name, position, reason, vetting.shown(text)))
    return reject_table(new)
