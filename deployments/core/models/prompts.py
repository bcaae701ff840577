"""From what the caller sent to the text that the model was trained to read."""

from __future__ import annotations

from collections.abc import Sequence

from deployments.core.errors import InvalidRequest
from deployments.core.models.spec import ModelSpec, Role


def choose_role(role: Role | None, instruction: str | None) -> Role:
    """Returns the role that a request means.

    Without ``input_type`` a text is a document, since most texts are; an instruction says that it
    is a query, because documents never take one.
    """
    if role is not None:
        return role
    return Role.QUERY if instruction else Role.DOCUMENT


def effective_instruction(spec: ModelSpec, role: Role, instruction: str | None) -> str | None:
    """Returns the instruction that is rendered: the caller's, the model's default, or none.

    Raises InvalidRequest for an instruction that the model, or the role, has no place for.
    """
    if instruction and not spec.takes_instruction:
        raise InvalidRequest(
            f"{spec.name} takes no instruction; leave `instruction` out, or choose an instruct model",
            "instruction",
        )
    if instruction and role is Role.DOCUMENT:
        raise InvalidRequest(
            f'{spec.name} takes an instruction for queries only; set `input_type` to "query", '
            "or leave `instruction` out for documents",
            "instruction",
        )
    if not spec.takes_instruction or role is Role.DOCUMENT:
        return None
    return instruction or spec.prompts.default_instruction


def prefix(spec: ModelSpec, role: Role, instruction: str | None = None) -> str:
    """Returns what stands in front of each text of this role."""
    if role is Role.DOCUMENT:
        return spec.prompts.document
    template = spec.prompts.query_instruction
    if template is None:
        return spec.prompts.query
    # not str.format: an instruction may contain braces
    return template.replace("{instruction}", effective_instruction(spec, role, instruction) or "")


def render(
    spec: ModelSpec, texts: Sequence[str], role: Role, instruction: str | None = None
) -> list[str]:
    """Returns each text behind its prompt. Raises InvalidRequest as `effective_instruction` does."""
    effective_instruction(spec, role, instruction)
    head = prefix(spec, role, instruction)
    return [head + text for text in texts] if head else list(texts)
