"""From what the caller sent to what the model was trained to read."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.core.errors import InvalidRequest
from deployments.core.models.catalog import CATALOG
from deployments.core.models.prompts import (
    Templates,
    check_template,
    choose_role,
    effective_instruction,
    prefix,
    render,
)
from deployments.core.models.published import WEB_SEARCH, WIKIPEDIA
from deployments.core.models.spec import Prompts, Role

PLAIN, E5 = CATALOG["all-MiniLM-L6-v2"], CATALOG["e5-small-v2"]
INSTRUCT = CATALOG["multilingual-e5-large-instruct"]
MISTRAL, LINQ = CATALOG["e5-mistral-7b-instruct"], CATALOG["linq-embed-mistral"]
QUERY, DOCUMENT = Role.QUERY, Role.DOCUMENT


@pytest.mark.parametrize(
    ("role", "instruction", "meant"),
    [
        (None, None, DOCUMENT),
        (None, "", DOCUMENT),
        (None, "Find", QUERY),
        (QUERY, None, QUERY),
        (QUERY, "Find", QUERY),
        (DOCUMENT, None, DOCUMENT),
        (DOCUMENT, "Find", DOCUMENT),
    ],
)
def test_the_role_that_a_request_means(role, instruction, meant):
    assert choose_role(role, instruction) is meant


@pytest.mark.parametrize(
    ("spec", "role", "instruction", "reads"),
    [
        (PLAIN, QUERY, None, "a"),
        (PLAIN, DOCUMENT, None, "a"),
        (E5, QUERY, None, "query: a"),
        (E5, DOCUMENT, None, "passage: a"),
        (INSTRUCT, DOCUMENT, None, "a"),
        (INSTRUCT, QUERY, None, f"Instruct: {WEB_SEARCH}\nQuery: a"),
        (MISTRAL, QUERY, None, f"Instruct: {WEB_SEARCH}\nQuery: a"),
        (LINQ, QUERY, None, f"Instruct: {WIKIPEDIA}\nQuery: a"),
        (LINQ, QUERY, "Find a duck", "Instruct: Find a duck\nQuery: a"),
        (LINQ, QUERY, "a {b} {instruction} %s", "Instruct: a {b} {instruction} %s\nQuery: a"),
    ],
)
def test_what_a_model_reads(spec, role, instruction, reads):
    assert render(spec, ["a", ""], role, instruction) == [reads, reads.removesuffix("a")]
    assert prefix(spec, role, instruction) == reads.removesuffix("a")


@pytest.mark.parametrize(
    ("spec", "role", "given", "effective"),
    [
        (PLAIN, QUERY, None, None),
        (PLAIN, QUERY, "", None),
        (E5, DOCUMENT, None, None),
        (INSTRUCT, DOCUMENT, None, None),
        (INSTRUCT, DOCUMENT, "", None),
        (INSTRUCT, QUERY, None, WEB_SEARCH),
        (INSTRUCT, QUERY, "", WEB_SEARCH),
        (INSTRUCT, QUERY, "Find", "Find"),
    ],
)
def test_the_instruction_that_is_rendered(spec, role, given, effective):
    assert effective_instruction(spec, role, given) == effective


@pytest.mark.parametrize(
    ("spec", "role", "advice"),
    [
        (PLAIN, QUERY, "all-MiniLM-L6-v2 takes no instruction.*`instruction`"),
        (E5, DOCUMENT, "e5-small-v2 takes no instruction.*`instruction`"),
        (INSTRUCT, DOCUMENT, 'set `input_type` to "query"'),
    ],
)
@pytest.mark.parametrize(
    "function", [effective_instruction, lambda *a: render(a[0], ["a"], *a[1:])]
)
def test_an_instruction_without_a_place_is_refused(function, spec, role, advice):
    with pytest.raises(InvalidRequest, match=advice) as refused:
        function(spec, role, "Find a duck")
    assert refused.value.param == "instruction"


def test_braces_of_the_template_are_text():
    own = Prompts(query_instruction='{"task": "{instruction}", {0}} ')
    assert render(replace(E5, prompts=own), ["a"], QUERY, "Find") == ['{"task": "Find", {0}} a']


def test_texts_are_not_touched():
    texts = ["\n a \n", "", "\x00", "a" * 9]
    assert render(PLAIN, texts, DOCUMENT) == texts
    assert render(E5, texts, DOCUMENT) == [f"passage: {text}" for text in texts]


@pytest.mark.parametrize(
    "template",
    ["{text}", "query: {text}", "", "x", "{text} x", "{text}{text}", "{ text }", "{TEXT}"],
)
@pytest.mark.parametrize("role", [QUERY, DOCUMENT])
def test_a_template_ends_with_the_text(template, role):
    if template.endswith("{text}") and template.count("{text}") == 1:
        check_template(template, role)
        return
    with pytest.raises(ValueError, match=r"\{text\}"):
        check_template(template, role)


@pytest.mark.parametrize(
    ("template", "role"),
    [
        ("{instruction}: {text}", DOCUMENT),
        ("{instruction} {instruction} {text}", QUERY),
        ("{task}: {text}", QUERY),
        ("{instructions}: {text}", QUERY),
        ("{text}: {instruction}", QUERY),
    ],
)
def test_other_placeholders_are_refused(template, role):
    with pytest.raises(ValueError, match=r"\{(instruction|text)\}"):
        check_template(template, role)


@pytest.mark.parametrize(
    "template", ['{"task": "x"} {text}', "{} {text}", "{0} {text}", "{{}}{text}"]
)
def test_other_braces_are_text(template):
    check_template(template, QUERY)
    assert Templates(query=template).over(Prompts(), "m").query + "{text}" == template


plain = st.text(max_size=20).filter(lambda text: "{" not in text)
any_text = st.text(max_size=30)


@given(before=plain, text=any_text)
def test_a_template_reads_as_it_is_written(before, text):
    template = before + "{text}"
    for role in (QUERY, DOCUMENT):
        check_template(template, role)
    templates = Templates(query=template, document=template)
    spec = replace(E5, prompts=templates.over(E5.prompts, E5.name))
    for role in (QUERY, DOCUMENT):
        assert render(spec, [text], role) == [before + text]


@given(before=plain, between=plain, instruction=any_text, default=any_text, text=any_text)
def test_an_instruction_stands_where_the_template_says(before, between, instruction, default, text):
    template = before + "{instruction}" + between + "{text}"
    check_template(template, QUERY)
    own = Templates(query=template, instruction=default).over(E5.prompts, E5.name)
    spec = replace(E5, prompts=own)
    given_or_default = instruction or default
    assert render(spec, [text], QUERY, instruction) == [before + given_or_default + between + text]
    assert render(spec, [text], DOCUMENT) == ["passage: " + text]


@given(
    st.builds(
        Templates,
        query=st.none() | plain.map("{}{{text}}".format),
        document=st.none() | plain.map("{}{{text}}".format),
    )
)
def test_a_role_that_is_left_out_keeps_the_models_own_prompt(templates):
    actual = templates.over(E5.prompts, E5.name)
    assert actual.query == ("query: " if templates.query is None else templates.query[:-6])
    assert actual.document == (
        "passage: " if templates.document is None else templates.document[:-6]
    )
