"""Counts the tokens of a sample of a corpus, with the tokenizer and the prompt of its model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from cluster.check import target_of
from cluster.corpus.errors import JobError
from cluster.corpus.plan.inputs import find_inputs
from cluster.corpus.plan.parts import plan_parts
from cluster.corpus.read.rows import read_part
from cluster.corpus.rejects import text_fault
from cluster.corpus.settings import Settings
from cluster.plan.errors import PlanError
from deployments.core.errors import EmbedfleetError
from deployments.core.models.describing import described
from deployments.core.models.loading import find_model
from deployments.core.models.prompts import render
from deployments.core.models.spec import ModelSpec, Role
from deployments.core.models.tokenizer import FastTokenizer

_ROWS = 1_024  # tokenized at once


@dataclass(frozen=True)
class Counted:
    """Rows that can be encoded and their tokens; rows that cannot; texts over the model's limit.

    Of a text over the limit only the tokens up to it count, as with ``embedfleet encode --truncate``.
    """

    rows: int = 0
    tokens: int = 0
    unreadable: int = 0
    over_limit: int = 0

    def __add__(self, other: Counted) -> Counted:
        return Counted(
            self.rows + other.rows,
            self.tokens + other.tokens,
            self.unreadable + other.unreadable,
            self.over_limit + other.over_limit,
        )


def count_tokens(model: str, sample: str, text_column: str) -> Counted:
    """Counts a sample's rows and tokens, prompts and special tokens included.

    Raises PlanError if the model or the sample cannot be read, or no row can be encoded.
    """
    try:
        target = target_of(model)
        description = described(
            find_model(target.name, target.path, target.revision, weights=False)
        )
    except (ValueError, EmbedfleetError) as error:
        raise PlanError(f"MODEL {model}: {error.args[0]}") from error
    tokenizer = FastTokenizer(description.spec, description.tokenizer)
    try:
        settings = Settings(sample, output="", model=model, text_column=text_column)
        inputs = find_inputs(sample)
        plan = plan_parts(inputs.filesystem, inputs.files, settings)
        counted = Counted()
        for part in plan.parts:
            rows = read_part(inputs.filesystem, part, text_column, pa.schema([]))
            counted += _counted(tokenizer, description.spec, rows.texts)
    except (JobError, EmbedfleetError, OSError, pa.ArrowException) as error:
        raise PlanError(f"--sample: {error.args[0]}") from error
    if not counted.rows:
        raise PlanError(
            f"--sample: {sample}: no row has a text in {text_column!r}; see --text-column"
        )
    return counted


def _counted(tokenizer: FastTokenizer, spec: ModelSpec, values: Sequence[object]) -> Counted:
    texts = [value for value in values if isinstance(value, str) and text_fault(value) is None]
    counted = Counted(unreadable=len(values) - len(texts))
    for start in range(0, len(texts), _ROWS):
        some = texts[start : start + _ROWS]
        empty = len(tokenizer.without_tokens(some))
        tokenized = tokenizer.tokenize(render(spec, some, Role.DOCUMENT), truncate=True)
        counted += Counted(
            len(some) - empty, tokenized.batch.tokens, empty, len(tokenized.truncated)
        )
    return counted
