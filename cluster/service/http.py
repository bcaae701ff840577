"""The HTTP client of a running service; every command that talks to one uses it."""

from __future__ import annotations

import base64
import ipaddress
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, BinaryIO
from urllib.parse import quote

import httpx
import numpy as np

from deployments.core.batch import Vectors
from deployments.core.models.spec import Role

_TIMEOUT_S = 300.0
_PROBE_TIMEOUT_S = 2.0
_MODELS = "/v1/models"
_OF_LISTING = ("data", "spaces")
_OF_BATCH = ("id", "status", "request_counts", "errors", "output_file_id", "error_file_id")
_GATEWAY = (502, 503, 504)  # of a proxy that gets no answer itself
_ACCESS_DENIED = (401, 403)
# transports that bypass the proxies named in the environment
_NO_PROXY = {"http://": None, "https://": None}


class ServiceError(Exception):
    """The service could not be reached or refused the request; the message says what to do."""


class KeyRefused(ServiceError):
    """The service requires an API key, or does not accept the one that was sent."""


class DownloadBroken(ServiceError):
    """A download ended before the end of its file; the same request may succeed."""


class NotEmbedfleet(ServiceError):
    """Another server answers, as ``sentence`` says."""

    def __init__(self, sentence: str) -> None:
        super().__init__(f"{sentence}; set --url to the service")
        self.sentence = sentence


class Service:
    """The service at one address."""

    def __init__(self, url: str, api_key: str | None = None, *, is_ours: bool = False) -> None:
        """Raises ServiceError if ``url`` is malformed.

        ``is_ours`` means that this machine runs the service: no proxy is used, and the certificate is not
        checked, since it is made out to the name that other machines use.
        """
        self.url = url
        self.api_key = api_key or None
        headers = [(b"authorization", b"Bearer " + api_key.encode())] if api_key else []
        try:
            self._http = httpx.Client(
                base_url=url,
                headers=headers,
                timeout=_TIMEOUT_S,
                mounts=_NO_PROXY if is_ours or _is_loopback(url) else None,
                verify=not is_ours,
            )
        except httpx.InvalidURL as error:
            raise ServiceError(f"{url} is not a valid address ({error}); set --url") from error

    @property
    def has_key(self) -> bool:
        """Whether requests carry an API key."""
        return self.api_key is not None

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def is_ready(self) -> bool:
        """Whether a model can answer."""
        response = self._probe("/ready")
        return response is not None and response.is_success

    def is_ray_serve(self) -> bool:
        """Whether a proxy of Ray Serve answers: it lists its routes as a JSON object."""
        response = self._probe("/-/routes")
        try:
            routes = response.json() if response and response.is_success else None
        except ValueError:
            return False
        return isinstance(routes, dict) and all(route.startswith("/") for route in routes)

    def another_server(self) -> str | None:
        """Returns a sentence about what answers if it is surely neither embedfleet nor Ray Serve.

        None also if nothing answers in time, or if Ray Serve or a proxy may still be starting.
        """
        response = self._probe(_MODELS)
        try:
            if response is not None:
                self._read(response, f"GET {_MODELS}", _OF_LISTING)
        except NotEmbedfleet as error:
            routes = self._probe("/-/routes")  # 5xx while Ray Serve has none yet
            return None if routes is None or routes.is_server_error else error.sentence
        except ServiceError:  # a refusal of the service's own, or of a proxy in front of it
            return None
        return None

    def models(self) -> list[dict[str, Any]]:
        """Returns the models as ``GET /v1/models`` lists them."""
        return self._listing("data")

    def spaces(self) -> list[dict[str, Any]]:
        """Returns the configured spaces as ``GET /v1/models`` lists them."""
        return self._listing("spaces")

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
        data = self._request("POST", "/v1/embeddings", body, needs=("data",))["data"]
        return np.stack([np.frombuffer(base64.b64decode(d["embedding"]), "<f4") for d in data])

    def _listing(self, key: str) -> list[dict[str, Any]]:
        reply = self._request("GET", _MODELS, needs=_OF_LISTING)
        listing: list[dict[str, Any]] = reply[key]
        return listing

    def _probe(self, path: str) -> httpx.Response | None:
        """Returns None if nothing answers in time."""
        try:
            return self._http.get(path, timeout=_PROBE_TIMEOUT_S)
        except httpx.HTTPError:
            return None

    def send_file(self, file: BinaryIO, name: str) -> str:
        """Sends the input of a batch; returns its id."""
        form, files = {"purpose": "batch"}, {"file": (name, file)}
        reply = self._request("POST", "/v1/files", needs=("id",), data=form, files=files)
        return str(reply["id"])

    def create_batch(self, file_id: str) -> dict[str, Any]:
        """Queues a batch of lines for `/v1/embeddings`."""
        body = {
            "input_file_id": file_id,
            "endpoint": "/v1/embeddings",
            "completion_window": "24h",
        }
        return self._request("POST", "/v1/batches", body, needs=_OF_BATCH)

    def batch(self, batch_id: str) -> dict[str, Any]:
        """Returns a batch as ``GET /v1/batches`` shows it."""
        return self._request("GET", f"/v1/batches/{quote(batch_id, safe='')}", needs=_OF_BATCH)

    def fetch_file(self, file_id: str, target: BinaryIO) -> None:
        """Writes the content of a file to ``target``.

        Raises OSError if that fails, and DownloadBroken if the connection ends too early.
        """
        path = f"/v1/files/{file_id}/content"
        with self._reaching(), self._http.stream("GET", path) as response:
            if not response.is_success:
                response.read()
            self._check(response, f"GET {path}")
            try:
                for chunk in response.iter_bytes():
                    target.write(chunk)
            except httpx.HTTPError as error:
                raise DownloadBroken(
                    f"the download of {file_id} from {self.url} broke off after "
                    f"{response.num_bytes_downloaded} bytes ({error or type(error).__name__})"
                ) from error

    def _request(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        needs: Collection[str],
        **form: Any,
    ) -> dict[str, Any]:
        """Returns the answer, a JSON object with at least the fields that it ``needs``."""
        with self._reaching():
            response = self._http.request(method, path, json=body, **form)
        return self._read(response, f"{method} {path}", needs)

    def _read(
        self, response: httpx.Response, request: str, needs: Collection[str]
    ) -> dict[str, Any]:
        self._check(response, request)
        reply = _object(response)
        if not set(needs) <= reply.keys():
            raise self._another_server(response, request)
        return reply

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            raise ServiceError(
                f"no service answers at {self.url} ({error}); start it with `embedfleet serve`"
            ) from error

    def _check(self, response: httpx.Response, request: str) -> None:
        if response.is_success:
            return
        error = _object(response).get("error")
        if not isinstance(error, dict) or "message" not in error:
            raise self._another_server(response, request)
        if response.status_code == httpx.codes.UNAUTHORIZED:
            raise KeyRefused(self._key_message())
        raise ServiceError(str(error["message"]))

    def _another_server(self, response: httpx.Response, request: str) -> ServiceError:
        # never the body, which may be a page of HTML
        status = f"{response.status_code} {response.reason_phrase}".rstrip()
        kind = response.headers.get("content-type", "no content type").partition(";")[0]
        form = ", in another form" if response.is_success else ""
        answer = f"answers {request} with {status} ({kind}){form}"
        if reason := self._why_another_answers(response, answer):
            return ServiceError(reason)
        return NotEmbedfleet(f"the server at {self.url} is not embedfleet: it {answer}")

    def _why_another_answers(self, response: httpx.Response, answer: str) -> str | None:
        """Returns None if the server has nothing to do with embedfleet or Ray Serve."""
        status = response.status_code
        if status in _GATEWAY:
            return (
                f"the proxy at {self.url} does not reach the service: it {answer}; start the service, "
                "or set --url to it"
            )
        if status == httpx.codes.REQUEST_TIMEOUT or response.is_server_error:
            return (
                f"a proxy at {self.url} {answer} instead of the service; try again, and look at "
                "`serve status`"
            )
        if status in _ACCESS_DENIED:
            return (
                f"the server at {self.url} {answer}, not in the form of embedfleet; set --url to the "
                "service itself if a proxy in front of it wants credentials of its own"
            )
        if self.is_ray_serve():
            return (
                f"Ray Serve runs at {self.url}, but {answer}: `serve status` shows the "
                "applications there and their route_prefix; set --url to the service"
            )
        return None

    def _key_message(self) -> str:
        why = "does not accept this API key" if self.has_key else "requires an API key"
        return f"the service at {self.url} {why}; set EMBEDFLEET_API_KEY or --api-key"


def _is_loopback(url: str) -> bool:
    host = httpx.URL(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _object(response: httpx.Response) -> dict[str, Any]:
    """Returns the JSON object of an answer; an empty one if it holds anything else."""
    try:
        content = response.json()
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}
