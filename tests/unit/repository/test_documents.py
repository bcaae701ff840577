"""The README and the other documents name only what exists: files, fields, models, commands."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib

import pytest

from cluster import cli
from deployments import metrics
from deployments.api import operations, page
from deployments.api.requests import EmbeddingRequest, RerankRequest, SimilarityRequest
from deployments.api.routes import PATHS
from deployments.config.schema import (
    Api,
    AppArgs,
    Autoscaling,
    BatchesConfig,
    Limits,
    ModelConfig,
    PromptsConfig,
    Routing,
)
from deployments.core import errors
from deployments.core.models.catalog import CATALOG
from deployments.core.routing.facts import ModelState
from tests.support.documents import (
    DOCUMENTS,
    PAGES,
    README,
    ROOT,
    code_blocks,
    inline_code,
    users_blocks,
)

# their defaults are described in words
DESCRIBED = {"spaces", "replicas", "routing", "limits", "api", "batches"}
CONFIGS = [AppArgs, ModelConfig, PromptsConfig, Limits, Api, Routing, Autoscaling, BatchesConfig]
FOLDERS = ("deployments/", "cluster/", "tests/", "benchmarks/", "docs/", "examples/")
# written by the benchmarks or by the user
NOT_IN_THE_REPOSITORY = {"benchmarks/results/"}
_COMMANDS = (
    "serve",
    "env",
    "encode",
    "score",
    "batch",
    "models",
    "check",
    "verify",
    "bench",
    "plan",
)
OPTIONS_OF_OTHERS = {"--head", "--port", "--address"}


def test_the_readme_fits_on_a_page():
    assert len(README.splitlines()) <= 150


def fields():
    return [(config, name) for config in CONFIGS for name in config.model_fields]


@pytest.mark.parametrize(("config", "name"), fields(), ids=str)
def test_each_field_of_the_config_is_explained_with_its_default(config, name):
    row = re.search(
        rf"^\| [^|]*`{name}`[^|]*\| ([^|]*) \| [^|]", PAGES["configuration.md"], re.MULTILINE
    )
    assert row, f"{name} is not in docs/configuration.md"
    field = config.model_fields[name]
    default = field.default
    if field.is_required():
        assert row[1] == "required"
    elif isinstance(default, bool):
        assert row[1] == f"`{str(default).lower()}`"
    elif isinstance(default, int | float) and name not in DESCRIBED:
        assert str(default).removesuffix(".0") in row[1].split(", ")
    elif isinstance(default, str):
        assert f"`{default}`" in row[1]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_each_link_leads_somewhere(document):
    file = ROOT / document
    for target, anchor in re.findall(r"\]\((?!http)([^)#]*)(?:#([^)]*))?\)", DOCUMENTS[document]):
        linked = (file.parent / target).resolve() if target else file
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert anchor in {anchor_of(heading) for heading in headings}, anchor


def anchor_of(heading: str) -> str:
    """GitHub's anchor of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_each_file_that_is_named_exists(document):
    for code in inline_code(DOCUMENTS[document]):
        if code.startswith(FOLDERS) and code not in NOT_IN_THE_REPOSITORY and "…" not in code:
            assert (ROOT / code).exists(), f"{document} names {code}: was it moved?"


@pytest.mark.parametrize("name", PAGES)
def test_each_page_is_in_the_index(name):
    assert name == "README.md" or f"]({name})" in PAGES["README.md"]


def test_each_catalog_model_is_in_the_table():
    for name, spec in CATALOG.items():
        row = f"| `{name}` | `{spec.repo}` | {spec.size} | {spec.dimension} | {spec.max_tokens} |"
        assert row in PAGES["models.md"]


def test_each_model_that_the_readme_names_is_in_the_catalog():
    section = README.split("## Models")[1].split("## ")[0]
    names = set(re.findall(r"`([^` ]+)`", section))
    assert names
    assert names <= set(CATALOG)


def test_each_model_of_the_table_is_in_the_catalog():
    rows = re.findall(r"^\| `([^`]+)` \| `[^`]+/", PAGES["models.md"], re.MULTILINE)
    assert rows == list(CATALOG)


def test_each_route_is_in_the_api_page():
    for path in PATHS - {*operations.ASSETS, *page.ASSETS}:
        assert f"{path.replace(':path', '')}`" in PAGES["api.md"], path


@pytest.mark.parametrize("body", [EmbeddingRequest, SimilarityRequest, RerankRequest])
def test_each_field_of_a_request_is_in_the_api_page(body):
    for name in body.model_fields:
        assert f"`{name}`" in PAGES["api.md"], name


@pytest.mark.parametrize("state", ModelState)
def test_each_state_of_a_model_is_in_the_api_page(state):
    assert f"| `{state}` |" in PAGES["api.md"]


def test_each_error_code_is_in_the_api_page():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    for kind in kinds:
        # the reason why a model is unavailable: callers get 503
        if issubclass(kind, errors.EmbedfleetError) and kind is not errors.UnsupportedModel:
            row = rf"^\| {kind.status} \| `{kind.code}` \|"
            assert re.search(row, PAGES["api.md"], re.MULTILINE), kind


def test_each_metric_that_is_named_exists():
    source = (ROOT / "deployments/metrics.py").read_text()
    assert f'"{metrics.PREFIX}"' in source
    section = PAGES["operations.md"].split("## Metrics")[1]
    for names in re.findall(r"^\| (`.*?`) \| `", section, re.MULTILINE):
        for name in re.findall(r"`(\w+)`", names):
            assert f'"{name}"' in source, name


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    for text in DOCUMENTS.values():
        for target in re.findall(r"\bmake ([\w-]+)`", text):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize(("target", "notices"), [("serve", 1), ("test-services", 2)])
def test_make_says_how_long_a_step_takes_before_it_installs(tmp_path, target, notices):
    command = ["make", "--dry-run", f"VENV={tmp_path / 'new'}", target]
    lines = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    steps = re.findall(r"^(?:echo .*minutes.* GB|.*pip install)", lines, re.MULTILINE)
    assert sum(step.startswith("echo") for step in steps) == notices
    assert steps[0].startswith("echo")


def test_benchmarks_that_are_named_exist():
    for text in DOCUMENTS.values():
        for name in re.findall(r"python -m benchmarks\.(\w+)", text):
            assert (ROOT / "benchmarks" / f"{name}.py").exists(), name


# what tells a block of commands, and the test that runs it, or what this would need
RUN_BY = {
    "make serve": "tests/clusters/test_by_hand.py",
    "curl -s": "tests/service/test_readme.py",
    "embedfleet encode": "tests/service/test_readme.py",
    "embedfleet batch": "tests/service/test_readme.py",
    "embedfleet check": "tests/unit/cluster/test_check.py",
    "embedfleet plan": "tests/unit/cluster/plan/test_command.py",
    "ray get-auth-token": "tests/clusters/test_by_hand.py",
    "serve deploy one_gpu.yaml": "tests/clusters/test_by_hand.py",
    "--model ./our-model": "tests/clusters/test_service_ends.py",
    "pip install": "tests/clusters/test_installed.py",
}
NOT_RUN = {
    "docker build -t embedfleet ": "Docker",
    "FIRST_MACHINE": "several machines",
    "ray up": "EC2",
    "kubectl apply": "Kubernetes",
    "kubectl create -f": "Kubernetes",
}


@pytest.mark.parametrize("block", users_blocks())
def test_each_block_of_commands_is_run_by_a_test(block):
    [mark] = [mark for mark in (*RUN_BY, *NOT_RUN) if mark in block]
    assert mark in NOT_RUN or (ROOT / RUN_BY[mark]).exists()


@pytest.mark.parametrize("mark", [*RUN_BY, *NOT_RUN])
def test_each_block_that_is_said_to_be_run_exists(mark):
    assert any(mark in block for block in users_blocks())


def help_of(command: str, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """Returns the options of one command."""
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    return set(re.findall(r"--[a-z][\w-]*", capsys.readouterr().out))


@pytest.fixture
def options(capsys) -> dict[str, set[str]]:
    """The options of each command."""
    return {name: help_of(name, capsys) for name in _COMMANDS}


def test_command_lines_have_only_options_that_exist(options):
    lines = [line for block in code_blocks("bash") for line in block.splitlines()]
    lines += [code for text in DOCUMENTS.values() for code in inline_code(text)]
    calls = [found for line in lines for found in re.findall(r"(?:^|\$\()embedfleet ([^)]*)", line)]
    assert calls
    for call in calls:
        command, *rest = shlex.split(call, comments=True)
        used = {word.strip("[]") for word in rest if word.lstrip("[").startswith("--")}
        assert used <= options[command], call


def test_options_that_are_named_exist(options):
    ours = set.union(*options.values()) | OPTIONS_OF_OTHERS
    for text in DOCUMENTS.values():
        for code in inline_code(text):
            if code.startswith("--"):
                assert code.split()[0] in ours, code


@pytest.mark.parametrize("command", ["encode", "score"])
def test_each_option_of_a_corpus_job_is_explained(options, command):
    for option in options[command] - {"--help"}:
        assert f"`{option}" in PAGES["corpus-jobs.md"], option


LIVES = {
    "life-of-a-request.md": "deployments",
    "life-of-a-row.md": "cluster/corpus",
}


@pytest.mark.parametrize(("page", "folder"), LIVES.items())
def test_each_folder_is_named_in_the_life_of_what_passes_through_it(page, folder):
    below = [path for path in (ROOT / folder).iterdir() if (path / "__init__.py").exists()]
    assert below
    for path in below:
        assert f"{folder}/{path.name}" in PAGES[page], f"docs/{page} does not name {path.name}"


@pytest.mark.parametrize("page", LIVES)
def test_each_class_and_function_is_in_the_file_beside_it(page):
    steps = re.findall(r"^`([\w/]+\.py)`((?: · `\w+`)+)", PAGES[page], re.MULTILINE)
    assert len(steps) >= 10
    for file, names in steps:
        source = (ROOT / file).read_text()
        for name in re.findall(r"\w+", names):
            definition = rf"^(class|def|async def) {name}\b"
            assert re.search(definition, source, re.MULTILINE), f"docs/{page}: {name} in {file}"


def test_the_layers_are_those_that_lint_checks():
    page = PAGES["life-of-a-request.md"].split("## What may import what")[1]
    contract = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = [layer.split(" | ") for layer in contract["contracts"][0]["layers"]]
    rows = re.findall(r"^\| \d.*? \| (.*) \|$", page, re.MULTILINE)
    named = [re.findall(r"`([\w/.]+)`", row) for row in rows]
    assert [[as_module(path) for path in row] for row in named] == layers


def as_module(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".")
