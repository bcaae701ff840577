"""Takes a file out of a multipart form while it arrives, and writes it to the store chunk by chunk."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from deployments.batches.store import Upload
from deployments.core.errors import (
    BodyTooLarge,
    Forbidden,
    InvalidRequest,
    UnsupportedMediaType,
)

_FILE = "file"
_FORM = b"multipart/form-data"
_MOST_FIELDS = 16
_MOST_FIELD_BYTES = 1_024
_MOST_NAME = 255  # characters of a filename
_MOST_DISCARDED = 64_000_000


async def receive(request: Request, upload: Upload, most: int) -> tuple[str, Mapping[str, str]]:
    """Writes the form's file to ``upload``; returns its name and the other fields.

    Raises BodyTooLarge if the file has more than ``most`` bytes, UnsupportedMediaType if the body is no
    form, Forbidden if a page of another site sends it, InvalidRequest, StoreFailed.
    """
    form = _Form(_boundary(request))
    received, is_too_large = 0, False
    async for chunk in request.stream():
        received += len(chunk)
        content = form.feed(chunk)
        is_too_large |= upload.bytes + len(content) > most
        if is_too_large and received > max(2 * most, _MOST_DISCARDED):
            break  # a client that still sends would not see the answer, but it has to end
        if content and not is_too_large:
            await asyncio.to_thread(upload.write, content)
    if is_too_large:
        raise BodyTooLarge(
            f"the file is over {most} bytes; divide it, or raise `batches.max_file_bytes` in the config",
            _FILE,
        )
    return form.ended()


def _boundary(request: Request) -> bytes:
    """Raises UnsupportedMediaType, and Forbidden for a form in a page of another site: a browser sends
    it without asking its user, unless the page needs a key.
    """
    is_closed = bool(request.app.state.keys)
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != _FORM or not (boundary := options.get(b"boundary")):
        raise UnsupportedMediaType(
            f"send the file as {_FORM.decode()}, with the fields `{_FILE}` and `purpose`",
            "content-type",
        )
    origin = request.headers.get("origin")
    if origin and origin.partition("://")[2] != request.headers.get("host") and not is_closed:
        raise Forbidden(
            f"pages of {origin[:100]!r} may not send files to a service without API keys", "origin"
        )
    return boundary


@dataclass
class _Part:
    """The part of the form that arrives."""

    headers: list[tuple[bytearray, bytearray]] = field(default_factory=list)
    name: str = ""

    def options(self) -> Mapping[bytes, bytes]:
        for name, value in self.headers:
            if name.lower() == b"content-disposition":
                return parse_options_header(value.decode("latin-1"))[1]
        return {}


class _Form:
    """Hands on the content of the form's file, and keeps its other fields."""

    def __init__(self, boundary: bytes) -> None:
        self._fields: dict[str, bytearray] = {}
        self._filename: str | None = None
        self._content = bytearray()
        self._part = _Part()
        self._is_complete = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_begin": self._begin_header,
                    "on_header_field": lambda data, a, b: self._header(0, data[a:b]),
                    "on_header_value": lambda data, a, b: self._header(1, data[a:b]),
                    "on_headers_finished": self._headers_end,
                    "on_part_data": lambda data, a, b: self._data(data[a:b]),
                    "on_end": self._end,
                },
            )
        except FormParserError as error:
            raise InvalidRequest(f"the form cannot be read: {error}") from error

    def feed(self, chunk: bytes) -> bytes:
        """Returns the part of the file that a chunk of the body holds. Raises InvalidRequest."""
        self._content.clear()
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise InvalidRequest(f"the form cannot be read: {error}") from error
        return bytes(self._content)

    def ended(self) -> tuple[str, Mapping[str, str]]:
        """Returns the file's name and the other fields. Raises InvalidRequest if anything is missing."""
        if not self._is_complete:
            raise InvalidRequest("the form is cut off; send it again")
        if self._filename is None:
            raise InvalidRequest(
                f"`{_FILE}` is missing: send the file in a field of that name", _FILE
            )
        fields = {n: value.decode("utf-8", "replace") for n, value in self._fields.items()}
        return self._filename[:_MOST_NAME], fields

    def _begin(self) -> None:
        self._part = _Part()

    def _begin_header(self) -> None:
        self._part.headers.append((bytearray(), bytearray()))

    def _header(self, which: int, content: bytes) -> None:
        self._part.headers[-1][which].extend(content)

    def _headers_end(self) -> None:
        options = self._part.options()
        name = self._part.name = options.get(b"name", b"").decode("utf-8", "replace")
        if name == _FILE:
            if self._filename is not None:
                raise InvalidRequest(f"`{_FILE}` is there twice; send one file a request", _FILE)
            self._filename = options.get(b"filename", b"").decode("utf-8", "replace")
            return
        if len(self._fields) == _MOST_FIELDS:
            raise InvalidRequest(f"the form has more than {_MOST_FIELDS} fields")
        self._fields[name] = bytearray()

    def _data(self, content: bytes) -> None:
        if self._part.name == _FILE:
            self._content.extend(content)
            return
        value = self._fields[self._part.name]
        value.extend(content)
        if len(value) > _MOST_FIELD_BYTES:
            raise InvalidRequest(
                f"`{self._part.name[:100]}` has more than {_MOST_FIELD_BYTES} bytes",
                self._part.name[:100],
            )

    def _end(self) -> None:
        self._is_complete = True
