"""A running service, as the command line talks to it over HTTP."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Sequence
from typing import Any

import httpx
import numpy as np

from deployments.core.batch import Vectors
from deployments.core.models.spec import Role

_TIMEOUT_S = 300.0
# what no proxy of the environment stands before
_DIRECTLY = {"http://": None, "https://": None}


class ServiceError(Exception):
    """The service could not be reached, or refused; the message says what to do."""


class Service:
    """The service at one address."""

    def __init__(self, url: str, api_key: str | None = None) -> None:
        """Raises ServiceError for an address that is none."""
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        self._url = url
        try:
            direct = _DIRECTLY if _is_this_machine(url) else None
            self._http = httpx.Client(
                base_url=url, headers=headers, timeout=_TIMEOUT_S, mounts=direct
            )
        except httpx.InvalidURL as error:
            raise ServiceError(f"{url} is no address ({error}); set --url") from error

    def models(self) -> list[dict[str, Any]]:
        """Returns the models as ``GET /v1/models`` gives them."""
        return self._listed("data")

    def spaces(self) -> list[dict[str, Any]]:
        """Returns the configured spaces as ``GET /v1/models`` gives them."""
        return self._listed("spaces")

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

    def _listed(self, what: str) -> list[dict[str, Any]]:
        answer = self._answer("GET", "/v1/models", None)
        if not isinstance(answer, dict) or not {"data", "spaces"} <= answer.keys():
            raise self._another("/v1/models")
        found: list[dict[str, Any]] = answer[what]
        return found

    def _another(self, path: str) -> ServiceError:
        return ServiceError(
            f"what answers to {path} at {self._url} is another server; set --url to the service"
        )

    def _answer(self, method: str, path: str, body: dict[str, Any] | None) -> Any:
        try:
            response = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise ServiceError(
                f"no service answers at {self._url} ({error}); start it with `embedfleet serve`"
            ) from error
        if response.status_code == httpx.codes.UNAUTHORIZED:
            raise ServiceError(self._wants_a_key())
        if response.is_error:
            raise ServiceError(_message(response))
        try:
            return response.json()
        except ValueError as error:
            raise self._another(path) from error

    def _wants_a_key(self) -> str:
        has_one = "authorization" in self._http.headers
        why = "does not know this API key" if has_one else "asks for an API key"
        return f"the service at {self._url} {why}; set EMBEDFLEET_API_KEY, or --api-key"


def _is_this_machine(url: str) -> bool:
    host = httpx.URL(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"{response.status_code} {response.text[:200]}"
