"""The modules of a model as its files list them, and the routes of a Router."""

from __future__ import annotations

from pathlib import Path

import pytest

from deployments.core.errors import UnsupportedModel
from deployments.core.models.modules import (
    listed_modules,
    needs_prompts,
    output_dimension,
    read_modules,
    route,
    transformer_of,
)
from deployments.core.models.spec import Role
from testing.models.files import MODULE, write_json, write_modules, write_pooling

POOLED = [("Transformer", ""), ("Pooling", "1_Pooling")]
ROUTES = {"query": ["query_0_Dense"], "document": ["document_0_Dense"]}


def router(folder: Path, structure=ROUTES, name="router_config.json", kind="Dense", **parameters):
    """Writes a Router whose routes have a module each, behind a pooling."""
    write_modules(folder, [*POOLED, ("Router", "2_Router")])
    write_pooling(folder / "1_Pooling", "mean", 32)
    names = [name for inside in structure.values() for name in inside]
    for inside in names:
        write_json(folder / "2_Router" / inside / "config.json", {"out_features": 16})
    types = dict.fromkeys(names, f"{MODULE}.{kind}")
    content = {"types": types, "structure": structure, "parameters": parameters}
    write_json(folder / "2_Router" / name, content)
    return folder


def last(folder: Path, role: Role) -> str:
    return route(read_modules(folder), role)[-1].folder.name


@pytest.mark.parametrize("name", ["router_config.json", "config.json"])
def test_a_router_stands_for_the_modules_of_a_texts_role(tmp_path, name):
    folder = router(tmp_path, name=name)
    assert last(folder, Role.QUERY) == "query_0_Dense"
    assert last(folder, Role.DOCUMENT) == "document_0_Dense"
    assert [module.kind for module in read_modules(folder)][-1] == "Router"
    assert output_dimension(read_modules(folder)) == 16


@pytest.mark.parametrize(
    ("mappings", "routes"),
    [
        ({"('query', 'text')": "b", "(None, None)": "a"}, ["b", "a"]),
        ({"('query', None)": "b", "(None, 'text')": "a"}, ["b", "a"]),
        ({"(None, 'text')": "a"}, ["a", "a"]),
        ({}, ["text", "text"]),
    ],
)
def test_routes_are_found_as_sentence_transformers_finds_them(tmp_path, mappings, routes):
    structure = {name: [f"{name}_0_Dense"] for name in ("a", "b", "text")}
    folder = router(tmp_path, structure, route_mappings=mappings)
    assert [last(folder, role) for role in Role] == [f"{name}_0_Dense" for name in routes]


def test_a_role_without_a_route_is_refused(tmp_path):
    folder = router(tmp_path, {"query": ["query_0_Dense"], "passage": ["passage_0_Dense"]})
    with pytest.raises(UnsupportedModel, match=r"router_config\.json has no route for a document"):
        read_modules(folder)


def test_what_is_not_supported_is_not_inside_a_router_either(tmp_path):
    with pytest.raises(UnsupportedModel, match="BoW module"):
        read_modules(router(tmp_path, kind="BoW"))


def test_vectors_of_two_dimensions_are_refused(tmp_path):
    folder = router(tmp_path)
    write_json(folder / "2_Router" / "query_0_Dense" / "config.json", {"out_features": 8})
    with pytest.raises(UnsupportedModel, match="queries get 8 dimensions and documents 16"):
        output_dimension(read_modules(folder))


def plain(folder: Path, **pooling: object) -> Path:
    write_modules(folder, POOLED)
    write_pooling(folder / "1_Pooling", "mean", 32)
    path = folder / "1_Pooling" / "config.json"
    write_json(path, {"word_embedding_dimension": 32, **pooling})
    return folder


def test_which_models_need_to_know_a_texts_prompt(tmp_path):
    assert not needs_prompts(read_modules(plain(tmp_path / "plain")))
    assert not needs_prompts(read_modules(plain(tmp_path / "all", include_prompt=True)))
    assert needs_prompts(read_modules(plain(tmp_path / "not all", include_prompt=False)))
    assert needs_prompts(read_modules(router(tmp_path / "router")))


def test_so_does_a_module_that_takes_the_task(tmp_path):
    folder = plain(tmp_path)
    lines = [
        {"idx": 0, "name": "0", "path": "", "type": f"{MODULE}.Transformer", "kwargs": ["task"]},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": f"{MODULE}.Pooling"},
    ]
    write_json(folder / "modules.json", lines)
    assert needs_prompts(read_modules(folder))


def test_a_folder_without_a_list_is_a_transformer(tmp_path):
    assert transformer_of(listed_modules(tmp_path)) == tmp_path
    with pytest.raises(UnsupportedModel, match=r"modules\.json is missing"):
        read_modules(tmp_path)
