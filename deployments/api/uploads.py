"""Takes a file out of a multipart form while it arrives, and writes it to the store chunk by chunk."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from functools import partial

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from deployments.batches.store import Upload
from deployments.batches.threads import StoreThreads
from deployments.core.errors import (
    BodyTooLarge,
    BodyTooSlow,
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
_SETUP_S, _SLOWEST = 60.0, 100_000  # bytes per second: less than any line brings that is of use


def transfer_s(size: int) -> float:
    """Returns how long the transfer of so many bytes may take."""
    return _SETUP_S + size / _SLOWEST


async def receive(
    request: Request, store: StoreThreads, upload: Upload, most: int
) -> tuple[str, Mapping[str, str]]:
    """Writes the form's file to ``upload``; returns its name and the other fields.

    Raises BodyTooLarge if the file has more than ``most`` bytes, BodyTooSlow, UnsupportedMediaType if the
    body is no form, Forbidden if a page of another site sends it, InvalidRequest, StoreFailed.
    """
    form = _Form(_boundary(request))
    try:
        async with asyncio.timeout(transfer_s(most)):
            await _write(request, form, store, upload, most)
    except TimeoutError:
        raise BodyTooSlow(
            f"the file did not arrive within {transfer_s(most):.0f} s; divide it, or use a faster line"
        ) from None
    return form.ended()


async def _write(
    request: Request, form: _Form, store: StoreThreads, upload: Upload, most: int
) -> None:
    received = size = 0
    async for chunk in request.stream():
        received += len(chunk)
        content = form.feed(chunk)
        size += len(content)
        if size > most and received > max(2 * most, _MOST_DISCARDED):
            break  # a client that still sends would not see the answer, but it has to end
        if content and size <= most:
            await store.run(partial(upload.write, content))
    if size > most:
        raise BodyTooLarge(
            f"the file is over {most} bytes; divide it, or raise `batches.max_file_bytes` in the config",
            _FILE,
        )


def _boundary(request: Request) -> bytes:
    """Raises UnsupportedMediaType, and Forbidden for a form in a page of another site: a browser sends
    it without asking its user, unless the page needs a key.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    if kind != _FORM or not (boundary := options.get(b"boundary")):
        raise UnsupportedMediaType(
            f"send the file as {_FORM.decode()}, with the fields `{_FILE}` and `purpose`",
            "content-type",
        )
    origin, is_closed = request.headers.get("origin"), bool(request.app.state.keys)
    if origin and origin.partition("://")[2] != request.headers.get("host") and not is_closed:
        raise Forbidden(
            f"pages of {origin[:100]!r} may not send files to a service without API keys", "origin"
        )
    return boundary


class _Form:
    """Hands on the content of the form's file, and keeps its other fields."""

    def __init__(self, boundary: bytes) -> None:
        self._fields: dict[str, bytearray] = {}
        self._filename: str | None = None
        self._header, self._value = bytearray(), bytearray()
        self._options: Mapping[bytes, bytes] = {}  # of the part that arrives
        self._content = bytearray()
        self._target = bytearray()
        self._is_complete = False
        try:
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._begin_part,
                    "on_header_field": lambda data, a, b: self._header.extend(data[a:b]),
                    "on_header_value": lambda data, a, b: self._value.extend(data[a:b]),
                    "on_header_end": self._end_header,
                    "on_headers_finished": self._begin_content,
                    "on_part_data": lambda data, a, b: self._add(data[a:b]),
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
        fields = {name: value.decode("utf-8", "replace") for name, value in self._fields.items()}
        return self._filename[:_MOST_NAME], fields

    def _begin_part(self) -> None:
        self._options = {}

    def _end_header(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._options = parse_options_header(bytes(self._value))[1]
        self._header.clear()
        self._value.clear()

    def _begin_content(self) -> None:
        name, filename = (
            self._options.get(option, b"").decode("utf-8", "replace")
            for option in (b"name", b"filename")
        )
        if name != _FILE:
            if len(self._fields) == _MOST_FIELDS:
                raise InvalidRequest(f"the form has more than {_MOST_FIELDS} fields")
            self._target = self._fields[name] = bytearray()
        elif self._filename is None:
            self._target, self._filename = self._content, filename
        else:
            raise InvalidRequest(f"`{_FILE}` is there twice; send one file a request", _FILE)

    def _add(self, content: bytes) -> None:
        self._target.extend(content)
        if self._target is not self._content and len(self._target) > _MOST_FIELD_BYTES:
            raise InvalidRequest(f"a field of the form has more than {_MOST_FIELD_BYTES} bytes")

    def _end(self) -> None:
        self._is_complete = True
