"""What a caller's tenant may see and use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from starlette.requests import Request

from deployments.api.auth import tenant_of
from deployments.api.requests import ModelBody
from deployments.api.responses import ModelItem, SpaceItem
from deployments.core.errors import PriorityNotAllowed
from deployments.core.lane import Lane

ModelBodyT = TypeVar("ModelBodyT", bound=ModelBody)


def with_priority(request: Request, body: ModelBodyT) -> ModelBodyT:
    """Returns a body whose ``priority`` the tenant may use: without one, the highest that it has.

    Raises PriorityNotAllowed if the body asks for a higher one.
    """
    tenant = tenant_of(request)
    if tenant.highest_priority is Lane.ONLINE or body.priority is Lane.OFFLINE:
        return body
    if "priority" in body.model_fields_set:
        raise PriorityNotAllowed(
            'this API key may not use `priority` "online"; leave `priority` out, or send "offline"',
            "priority",
        )
    return body.model_copy(update={"priority": tenant.highest_priority})


def visible_models(request: Request, items: Iterable[ModelItem]) -> list[ModelItem]:
    """Returns the models that the tenant may use."""
    tenant = tenant_of(request)
    return [item for item in items if tenant.may_use(item.id)]


def visible_spaces(request: Request, items: Iterable[SpaceItem]) -> list[SpaceItem]:
    """Returns the spaces of these models, with those of their members."""
    tenant = tenant_of(request)
    spaces = []
    for item in items:
        members = {name: roles for name, roles in item.members.items() if tenant.may_use(name)}
        if members:
            spaces.append(item.model_copy(update={"members": members}))
    return spaces
