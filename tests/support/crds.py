"""KubeRay's own CRDs as JSON schemas that refuse what an API server would drop or refuse.

They are the files of KubeRay 1.7.0-rc (August 2026), kept beside the checkout and not in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

FOLDER = Path(__file__).parents[3] / "shared" / "kuberay"
_METADATA = ("name", "generateName", "namespace", "labels", "annotations")


@cache
def validator(kind: str) -> Draft202012Validator:
    """Returns the validator of a kind, such as RayService, at version v1."""
    file = FOLDER / f"ray.io_{kind.lower()}s.yaml"
    crd = yaml.load(file.read_text(), yaml.CSafeLoader)
    assert crd["spec"]["names"]["kind"] == kind
    (version,) = [v for v in crd["spec"]["versions"] if v["name"] == "v1"]
    schema = closed(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = closed(
        {"type": "object", "properties": {key: {} for key in _METADATA}}
    )
    return _Validator(schema)


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Returns a structural schema in which every field that it does not name is an error."""
    strict = dict(schema)
    if "properties" in schema:
        strict["properties"] = {name: closed(part) for name, part in schema["properties"].items()}
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            strict[key] = closed(schema[key])
    preserves = schema.get("x-kubernetes-preserve-unknown-fields")
    if schema.get("type") == "object" and "additionalProperties" not in schema and not preserves:
        strict["additionalProperties"] = False
    return strict


def _unique(_: Any, keys: list[str], items: Any, __: Any) -> Iterator[ValidationError]:
    """Yields an error if two items of a list of type map have the same keys."""
    seen = [tuple(item.get(key) for key in keys) for item in items if isinstance(item, dict)]
    yield from (ValidationError(f"{key} is repeated") for key in seen if seen.count(key) > 1)


_Validator = extend(Draft202012Validator, {"x-kubernetes-list-map-keys": _unique})
