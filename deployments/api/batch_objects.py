"""Files and batches as OpenAI's clients see them, and as the OpenAPI description has them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Literal

from pydantic import BaseModel, ConfigDict

from deployments.batches.states import Batch, Counts, FileInfo, Problem, Status

# fields with a default are in every answer too
_ALL_REQUIRED = ConfigDict(json_schema_serialization_defaults_required=True)


class FileObject(BaseModel):
    """A file: the input of a batch, or its results."""

    model_config = _ALL_REQUIRED

    id: str
    object: Literal["file"] = "file"
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Literal["batch", "batch_output"]
    status: Literal["processed"] = "processed"

    @classmethod
    def of(cls, info: FileInfo) -> FileObject:
        """Returns what callers see of a file."""
        return cls(**{k: v for k, v in asdict(info).items() if k in cls.model_fields})


class DeletedFile(BaseModel):
    """The answer to a deletion."""

    model_config = _ALL_REQUIRED

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True


class Problems(BaseModel):
    """Why a batch failed as a whole."""

    model_config = _ALL_REQUIRED

    object: Literal["list"] = "list"
    data: tuple[Problem, ...]


class BatchObject(BaseModel):
    """A batch. Times are Unix seconds, and null for states that it has not entered."""

    model_config = _ALL_REQUIRED

    id: str
    object: Literal["batch"] = "batch"
    endpoint: str
    errors: Problems | None
    input_file_id: str
    completion_window: Literal["24h"] = "24h"
    status: Status
    output_file_id: str | None
    error_file_id: str | None
    created_at: int
    expires_at: int
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: Counts
    metadata: dict[str, str] | None

    @classmethod
    def of(cls, batch: Batch) -> BatchObject:
        """Returns what callers see of a batch."""
        fields = {k: v for k, v in vars(batch).items() if k in cls.model_fields}
        times = {f"{name}_at": at for name, at in batch.times.items()}
        errors = Problems(data=batch.problems) if batch.problems else None
        return cls(**fields, **times, errors=errors)


class Page(BaseModel):
    """Some of the caller's objects. If there ``has_more``, they come ``after`` the one of ``last_id``."""

    model_config = _ALL_REQUIRED

    object: Literal["list"] = "list"
    has_more: bool
    first_id: str | None
    last_id: str | None


class FileList(Page):
    """Files of the caller."""

    data: list[FileObject]


class BatchList(Page):
    """Batches of the caller."""

    data: list[BatchObject]
