"""A running service, as the command line talks to it over HTTP."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np

from deployments.embedding.batch import Vectors
from deployments.embedding.models.model import Role

_TIMEOUT_S = 300.0


class ServiceError(Exception):
    """The service could not be reached, or refused; the message says what to do."""


class Service:
    """The service at one address."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._url = url
        self._http = httpx.Client(base_url=url, headers=headers, timeout=_TIMEOUT_S)

    def models(self) -> list[dict[str, Any]]:
        """Returns the models as ``GET /v1/models`` gives them."""
        found: list[dict[str, Any]] = self._answer("GET", "/v1/models", None)["data"]
        return found

    def spaces(self) -> list[dict[str, Any]]:
        """Returns the configured spaces as ``GET /v1/models`` gives them."""
        found: list[dict[str, Any]] = self._answer("GET", "/v1/models", None)["spaces"]
        return found

    def encode(
        self, model: str, texts: Sequence[str], role: Role, instruction: str | None = None
    ) -> Vectors:
        """Returns float32 vectors ``(texts, dimension)``."""
        body: dict[str, Any] = {
            "model": model,
            "input": list(texts),
            "input_type": role.value,
            "encoding_format": "base64",
        }
        if instruction is not None:
            body["instruction"] = instruction
        data = self._answer("POST", "/v1/embeddings", body)["data"]
        return np.stack([np.frombuffer(base64.b64decode(d["embedding"]), "<f4") for d in data])

    def _answer(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        try:
            response = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise ServiceError(
                f"no service answers at {self._url} ({error}); start it with `embedfleet serve`"
            ) from error
        if response.is_error:
            raise ServiceError(_message(response))
        return response.json()


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code} {response.text[:200]}"
