"""The typed ``args`` of ``serve_config.yaml``. A wrong field is refused by name before anything runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from deployments.core.models.catalog import by_name_or_repo, did_you_mean
from deployments.core.models.overrides import Overrides
from deployments.core.models.prompts import INSTRUCTION, Templates, check_template
from deployments.core.models.spec import Pooling, Role, Side, Size
from deployments.core.routing.facts import Aim
from deployments.core.routing.policy import AUTO
from deployments.validation import explain

_COMMIT = re.compile(r"[0-9a-f]{40}")
_ORIGIN = re.compile(r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?")


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Autoscaling(_Config):
    """The bounds of a model's replicas; equal bounds are a fixed number.

    With 0 as minimum an unused model leaves its GPU. The other fields say when the number of
    replicas changes: see `Goal` in `core/scaling.py`.
    """

    min_replicas: int = Field(1, ge=0)
    max_replicas: int = Field(1, ge=1)
    target_wait_s: float = Field(1.0, gt=0)
    utilisation: float = Field(0.7, gt=0, le=1)
    offline_max_replicas: int | None = Field(None, ge=0)
    offline_after_s: float = Field(10.0, ge=0)
    downscale_delay_s: float = Field(60.0, ge=5)
    downscale_to_zero_delay_s: float = Field(300.0, ge=10)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas is above max_replicas")
        if (self.offline_max_replicas or 0) > self.max_replicas:
            raise ValueError("offline_max_replicas is above max_replicas")
        return self

    @property
    def fixed(self) -> int | None:
        """The number of replicas if it never changes, else None."""
        return self.max_replicas if self.min_replicas == self.max_replicas else None


class PromptsConfig(_Config):
    """What a model reads for a text of each role: templates with ``{text}``.

    A query template with ``{instruction}`` makes an instruct model; ``instruction`` is then the one of
    requests that have none. What is left out stays as the model's files or its card say.
    """

    query: str | None = None
    document: str | None = None
    instruction: str | None = Field(None, min_length=1)

    @field_validator("query", "document")
    @classmethod
    def _is_a_template(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None:
            check_template(value, Role(str(info.field_name)))
        return value

    @property
    def templates(self) -> Templates:
        """The same, as the core takes it."""
        return Templates(self.query, self.document, self.instruction)

    @model_validator(mode="after")
    def _instruction_has_its_place(self) -> Self:
        if self.query is None:
            return self
        if INSTRUCTION in self.query and self.instruction is None:
            raise ValueError(
                "instruction is missing: queries that come without an instruction get this one"
            )
        if INSTRUCTION not in self.query and self.instruction is not None:
            raise ValueError(f"instruction has no place: put {INSTRUCTION} into `query`")
        return self


class ModelConfig(_Config):
    """One model to serve.

    - ``name`` is a name of the catalog, or any other name together with ``path``: a folder or a hub id
      in sentence-transformers format. For a catalog name, ``path`` says where its weights are.
    - ``replicas`` is a number or bounds.
    - ``threads`` is the number of processor threads of a replica, by default ``num_cpus``; ``auto``
      means one for each core of its node.
    - ``streams`` is the number of forward passes that run at once and share the threads: by default
      one for each thread, and one on a GPU. A replica that has all cores of a Linux machine runs
      online passes on cores that it takes from offline ones. With ``streams``, or elsewhere, both
      lanes share passes, and ``auto`` leaves one core free.
    - ``languages`` (ISO 639-1), ``licence``, and ``dimensions``, the smaller ones that the model was
      trained to be cut to (Matryoshka), are facts that a model's files may not state.
    - ``prompts``, ``max_tokens``, ``truncation_side`` and ``normalize`` replace what the model's files or
      its card say. ``pooling`` is for folders whose files do not say.
    - ``trust_remote_code`` lets the model run code of its repository, at a pinned ``revision`` only.
    """

    name: str = Field(min_length=1, max_length=200)
    path: str | None = Field(None, min_length=1)
    revision: str | None = None
    size: Size | None = None
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    num_gpus: float = Field(0, ge=0)
    num_cpus: float = Field(1, ge=0)
    threads: PositiveInt | Literal["auto"] | None = None
    streams: int | None = Field(None, ge=1)
    resources: dict[str, float] = {}
    accelerator_type: str | None = None
    label_selector: dict[str, str] = {}
    replicas: Autoscaling = Autoscaling()
    token_budget: int | None = Field(None, ge=16)
    languages: tuple[str, ...] | None = None
    licence: str | None = None
    dimensions: tuple[PositiveInt, ...] = ()
    prompts: PromptsConfig | None = None
    max_tokens: int | None = Field(None, ge=8)
    truncation_side: Side | None = None
    pooling: Pooling | None = None
    normalize: bool | None = None
    trust_remote_code: bool = False

    @field_validator("replicas", mode="before")
    @classmethod
    def _number_means_equal_bounds(cls, value: Any) -> Any:
        if isinstance(value, Autoscaling | Mapping):
            return value
        if type(value) is not int or value < 1:
            raise ValueError(
                "must be a whole number of at least 1, or bounds such as "
                "`{min_replicas: 0, max_replicas: 4}`"
            )
        return {"min_replicas": value, "max_replicas": value}

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.path is None and by_name_or_repo(self.name) is None and "/" not in self.name:
            raise ValueError(
                f"{self.name!r} is not in the catalog{did_you_mean(self.name)}; `embedfleet models "
                "--catalog` lists it. For another model, set `path` to a folder or a hub id"
            )
        return self

    @model_validator(mode="after")
    def _remote_code_is_pinned(self) -> Self:
        if self.trust_remote_code and not _COMMIT.fullmatch(self.revision or ""):
            raise ValueError(
                "trust_remote_code needs `revision`, a commit (40 hex digits) whose code you have read: "
                "a branch may change"
            )
        return self

    @model_validator(mode="after")
    def _streams_have_threads(self) -> Self:
        if self.streams is None or self.threads == "auto" or self._may_have_gpu:
            return self
        threads = self.threads or max(1, int(self.num_cpus))
        if self.streams > threads:
            raise ValueError(
                f"streams is above threads ({threads}; the default of `threads` is `num_cpus`)"
            )
        return self

    @model_validator(mode="after")
    def _has_one_gpu(self) -> Self:
        if self.num_gpus > 1:
            raise ValueError(
                "num_gpus is above 1, but a replica uses one GPU; raise `replicas` to use more"
            )
        if self.num_gpus and int(self.device.partition(":")[2] or 0):
            raise ValueError(
                f"device is {self.device}, but with `num_gpus` a replica sees only its own GPU, "
                "as cuda:0; remove `device`"
            )
        return self

    @property
    def overrides(self) -> Overrides:
        """What this config says about the model's vectors."""
        prompts = self.prompts
        return Overrides(
            prompts=prompts.templates if prompts else None,
            max_tokens=self.max_tokens,
            truncation_side=self.truncation_side,
            pooling=self.pooling,
            normalize=self.normalize,
            dimensions=self.dimensions,
            trust_remote_code=self.trust_remote_code,
        )

    @property
    def device_to_use(self) -> str:
        """``device``, with ``auto`` resolved to the CPU if there is no ``num_gpus``.

        Ray does not hide the GPUs that it has assigned to other replicas.
        """
        return "cpu" if self.device == "auto" and not self.num_gpus else self.device

    @property
    def _may_have_gpu(self) -> bool:
        return self.device_to_use != "cpu"

    @property
    def can_be_cold(self) -> bool:
        """Whether having no replica is a normal state."""
        return self.replicas.min_replicas == 0

    @property
    def deployment_name(self) -> str:
        """The name of the model's Ray Serve deployment."""
        return "encoder-" + re.sub(r"[^\w.-]", "--", self.name)


class SpaceMember(_Config):
    """A model of a space, and the roles that it answers there."""

    model: str
    roles: tuple[Role, ...] = Field(tuple(Role), min_length=1)


class Space(_Config):
    """Models whose vectors can be compared.

    ``floor`` is the least cosine that any two of them may have between their vectors of one text.
    """

    name: str = Field(min_length=1, pattern=r"^[\w./-]+$")
    members: tuple[SpaceMember, ...] = Field(min_length=2)
    floor: float = Field(0.9, gt=0, le=1)


class Routing(_Config):
    """How models are chosen. The router's ``user_config`` has the same fields and replaces these.

    ``sizes`` overrides the size of a model. ``busy_s`` is the expected wait above which `balanced`
    looks for another model. ``barred_licences`` are SPDX names or ``non-commercial``.
    """

    aim: Aim = Aim.BALANCED
    busy_s: float = Field(0.5, ge=0)
    sizes: dict[str, Size] = {}
    spaces: tuple[Space, ...] = ()
    barred_licences: tuple[str, ...] = ()

    def check(self, models: Iterable[str]) -> None:
        """Raises ValueError that names the first field which contradicts the configured models."""
        names = list(models)
        for model in self.sizes:
            _require(model in names, f"sizes.{model}: no such model; the models are {names}")
        taken = {*names, *Size, AUTO}
        members: set[str] = set()
        for i, space in enumerate(self.spaces):
            _require(space.name not in taken, f"spaces.{i}.name: {space.name!r} is already taken")
            taken.add(space.name)
            for j, member in enumerate(space.members):
                field = f"spaces.{i}.members.{j}.model: {member.model!r}"
                _require(member.model in names, f"{field} is not among the models {names}")
                _require(member.model not in members, f"{field} is already in a space")
                members.add(member.model)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


class Limits(_Config):
    """How much work is accepted, and how long it may take.

    ``max_requests`` may be in progress in one router; HAProxy's connections to it follow (`embedfleet
    env`). The lanes of a replica bound the waiting tokens; this bounds a storm of short requests, in
    the router, before they reach a replica. ``offline_patience_s`` is how long offline texts let
    online ones go first where both lanes share passes.
    """

    max_body_bytes: int = Field(8_000_000, ge=1)
    max_requests: int = Field(256, ge=1)
    max_texts: int = Field(2_048, ge=1)
    request_timeout_s: float = Field(60.0, gt=0)
    cold_wait_s: float = Field(4.0, gt=0, lt=5)
    online_max_wait_s: float = Field(10.0, gt=0)
    offline_max_wait_s: float = Field(60.0, gt=0)
    offline_patience_s: float = Field(2.0, gt=0)


class Api(_Config):
    """Who may call, and what browsers get.

    ``keys_file`` lists tenants and what their keys may do (`deployments/config/keys_file.py`).
    ``cors_origins`` are the web pages that may call from a browser, such as ``https://app.example.com``;
    ``*`` means all. ``page`` serves the page at ``/``.
    """

    keys_file: str | None = Field(None, min_length=1)
    cors_origins: tuple[str, ...] = ()
    page: bool = True

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is not an origin; write a scheme and a host as the browser sends them, "
                    "such as `https://app.example.com` or `http://localhost:3000`, without a path"
                )
        return value


class BatchesConfig(_Config):
    """Batches over HTTP, which are off without this block.

    ``store`` is a folder that all nodes see, or a URI of a pyarrow file system; by default it is a folder
    beside Ray's, one for each HTTP port, which is enough on a single machine. ``max_batches`` may wait or
    run, and ``max_running`` run at once. ``wait_s`` is how long a line waits for a model that does not
    answer.
    """

    store: str | None = Field(None, min_length=1)
    max_file_bytes: int = Field(200_000_000, ge=1)
    max_batches: int = Field(1_000, ge=1)
    max_running: int = Field(2, ge=1)
    retention_days: float = Field(30.0, ge=1)
    wait_s: float = Field(900.0, gt=0)

    @property
    def retention_s(self) -> int:
        """The same in seconds."""
        return int(self.retention_days * 86_400)


class AppArgs(_Config):
    """Everything under ``args`` in ``serve_config.yaml``.

    ``router_cpus`` is 0 by default, so that a router can start where the models take all cores.
    """

    models: tuple[ModelConfig, ...] = Field(min_length=1)
    default_model: str | None = None
    truncate: bool = False
    routers: int = Field(1, ge=1)
    router_cpus: float = Field(0.0, ge=0)
    routing: Routing = Routing()
    limits: Limits = Limits()
    api: Api = Api()
    batches: BatchesConfig | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [model.name for model in self.models]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"models named twice: {', '.join(sorted(repeated))}")
        if AUTO in names:
            raise ValueError(f"a model cannot be named {AUTO!r}: that asks for a choice")
        try:
            self.routing.check(names)
        except ValueError as error:
            raise ValueError(f"routing.{error}") from None
        choices = [*names, AUTO, *(space.name for space in self.routing.spaces)]
        if self.default_model is not None and self.default_model not in choices:
            raise ValueError(f"default_model {self.default_model!r} is not among models {choices}")
        return self


def routing_of(user_config: Any, models: Iterable[str]) -> Routing:
    """Returns the router's ``user_config`` as typed.

    Raises ValueError that names the field: one of ours, without pydantic's own text.
    """
    try:
        routing = Routing.model_validate(user_config or {})
    except ValidationError as error:
        raise ValueError(str(explain(error, Routing))) from None
    routing.check(models)
    return routing
