"""Turns a caller's text into the one the model was trained on: chooses the role, adds the prompt."""

from __future__ import annotations

from collections.abc import Sequence

from deployments.core.errors import InvalidRequest
from deployments.core.models.spec import ModelSpec, Role


def choose_role(role: Role | None, instruction: str | None) -> Role:
    """Returns the role of a request's texts.

    Without ``input_type`` they are documents, as most texts are, unless the request has an instruction:
    only queries take one.
    """
    if role is not None:
        return role
    return Role.QUERY if instruction else Role.DOCUMENT


def effective_instruction(spec: ModelSpec, role: Role, instruction: str | None) -> str | None:
    """Returns the instruction to render: the caller's, the model's default, or None.

    Raises InvalidRequest if the model or the role takes no instruction.
    """
    if instruction and not spec.takes_instruction:
        raise InvalidRequest(
            f"{spec.name} takes no instruction; omit `instruction`, or choose an instruct model",
            "instruction",
        )
    if instruction and role is Role.DOCUMENT:
        raise InvalidRequest(
            f'{spec.name} takes an instruction for queries only; set `input_type` to "query", '
            "or omit `instruction` for documents",
            "instruction",
        )
    if not spec.takes_instruction or role is Role.DOCUMENT:
        return None
    return instruction or spec.prompts.default_instruction


def prefix(spec: ModelSpec, role: Role, instruction: str | None = None) -> str:
    """Returns the prompt in front of each text of this role."""
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
    """Returns each text with its prompt in front. Raises InvalidRequest as `effective_instruction`."""
    effective_instruction(spec, role, instruction)
    prompt = prefix(spec, role, instruction)
    return [prompt + text for text in texts] if prompt else list(texts)
