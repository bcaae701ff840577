"""Turns a caller's text into the one the model was trained on: chooses the role, adds the prompt."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from deployments.core.errors import InvalidRequest, UnsupportedModel
from deployments.core.models.spec import ModelSpec, Prompts, Role

TEXT, INSTRUCTION = "{text}", "{instruction}"
_PLACEHOLDER = re.compile(r"\{[A-Za-z_]\w*\}")


@dataclass(frozen=True)
class Templates:
    """Prompts as a config states them, each with ``{text}`` at its end; None leaves the model's own.

    A query template with ``{instruction}`` makes an instruct model, and ``instruction`` is the default
    of requests that have none. Check the templates with `check_template` first.
    """

    query: str | None = None
    document: str | None = None
    instruction: str | None = None

    def over(self, own: Prompts, model: str) -> Prompts:
        """Returns the model's own prompts, replaced by these.

        Raises UnsupportedModel if there is a default instruction, but no template for it.
        """
        prompts = own
        if self.document is not None:
            prompts = replace(prompts, document=self.document.removesuffix(TEXT))
        if self.query is not None:
            prompts = _with_query(prompts, self.query.removesuffix(TEXT))
        if self.instruction is None:
            return prompts
        if prompts.query_instruction is None:
            raise UnsupportedModel(
                f"prompts.instruction: the queries of {model} have no place for it; set `prompts.query` "
                f"to a template with {INSTRUCTION} and {TEXT}"
            )
        return replace(prompts, default_instruction=self.instruction)


def _with_query(prompts: Prompts, prefix: str) -> Prompts:
    if INSTRUCTION in prefix:
        return replace(prompts, query="", query_instruction=prefix)
    return replace(prompts, query=prefix, query_instruction=None, default_instruction=None)


def templates(prompts: Prompts) -> Templates:
    """Returns a model's prompts as a config would state them."""
    query = prompts.query_instruction or prompts.query
    return Templates(query + TEXT, prompts.document + TEXT, prompts.default_instruction)


def check_template(template: str, role: Role) -> None:
    """Raises ValueError, with the fix, unless this is a prompt template of the role."""
    allowed = (INSTRUCTION, TEXT) if role is Role.QUERY else (TEXT,)
    for placeholder in _PLACEHOLDER.findall(template):
        if placeholder not in allowed:
            queries_only = ", which only queries take" if placeholder == INSTRUCTION else ""
            raise ValueError(
                f"has {placeholder}{queries_only}; a {role} template may have {' and '.join(allowed)}"
            )
    if template.count(TEXT) != 1 or not template.endswith(TEXT):
        raise ValueError(
            f"must have {TEXT} once, at its end, because long texts are cut there; for example "
            f'"{role}: {TEXT}"'
        )
    if template.count(INSTRUCTION) > 1:
        raise ValueError(f"has {INSTRUCTION} more than once")


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
