"""The image: pinned, not root, and without a secret."""

from __future__ import annotations

import json
import re
import shlex

import pytest

from cluster import cli
from cluster.service import serve as serving
from cluster.service.environment import path_environment
from cluster.service.haproxy import BINARY_PATH, COMMAND
from tests.support.manifests import FOLDER, ROOT

TEXT = (FOLDER / "Dockerfile").read_text()


def instructions(text: str) -> list[tuple[str, str]]:
    """Returns each instruction and what it says, in one line."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [(line.split()[0], line.partition(" ")[2]) for line in joined.splitlines() if line]


def all_of(name: str, text: str = TEXT) -> list[str]:
    return [rest for instruction, rest in instructions(text) if instruction == name]


def complaints(text: str) -> list[str]:
    """What the image's rules say against a Dockerfile; nothing where it is in order."""
    checks = {
        "the base has no exact version": all(
            re.search(r":\d+\.\d+\.\d+", base) for base in all_of("FROM", text)
        ),
        "the last user is root, or has no number": bool(
            (users := all_of("USER", text)) and re.fullmatch(r"[1-9]\d*", users[-1])
        ),
        "a secret stays in the image": not any(
            re.search(r"(KEY|TOKEN|SECRET|PASSWORD)\w*\b", setting)
            for setting in (*all_of("ENV", text), *all_of("ARG", text))
        ),
        "pip installs what it likes": all(
            "-c constraints.txt" in command
            for run in all_of("RUN", text)
            for command in re.findall(r"pip install[^&]*", run)
        ),
    }
    return [complaint for complaint, holds in checks.items() if not holds]


def test_it_is_in_order():
    assert complaints(TEXT) == []


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        (":3.11.13-slim-bookworm", ":latest", "the base has no exact version"),
        ("USER 1000", "USER 0", "the last user is root, or has no number"),
        ("USER 1000", "USER 1000\nUSER root", "the last user is root, or has no number"),
        ("EXPOSE", "ENV HF_TOKEN=hf_x\nEXPOSE", "a secret stays in the image"),
        ("EXPOSE", "ARG API_KEYS\nEXPOSE", "a secret stays in the image"),
        ("-c constraints.txt --no-deps --index-url", "--index-url", "pip installs what it likes"),
    ],
)
def test_what_is_wrong_is_found(old, new, complaint):
    assert complaints(TEXT.replace(old, new)) == [complaint]


def test_torch_comes_first_and_alone():
    installs = re.findall(r"pip install[^&]*", " && ".join(all_of("RUN")))
    packages = ("torch", "'.[traces]'", ".")
    ours = [[word for word in install.split() if word in packages] for install in installs]
    assert ours == [["torch"], ["torch"], ["'.[traces]'"], ["."]]


def test_torchs_own_index_gives_torch_alone():
    installs = re.findall(r"pip install[^&]*", " && ".join(all_of("RUN")))
    from_there = [install for install in installs if "$TORCH_INDEX" in install]
    assert from_there
    assert all("--no-deps" in install for install in from_there)
    assert not any(re.search("[A-Z_]*INDEX", said) for said in all_of("ENV"))  # the rest is PyPI's


def test_the_fast_path_is_on():
    settings = dict(pair.split("=") for pair in shlex.split(" ".join(all_of("ENV"))))
    environment, _ = path_environment("haproxy")
    del environment["RAY_SERVE_HAPROXY_MAXCONN"]  # follows the machine's file limit
    environment[BINARY_PATH] = f"/usr/local/bin/{COMMAND}"  # where pip puts it
    assert settings.items() >= environment.items()


def test_what_is_copied_is_there_and_let_through():
    allowed = (ROOT / ".dockerignore").read_text().splitlines()
    assert allowed[1] == "*"
    copied = [source for rest in all_of("COPY") for source in rest.split()[:-1]]
    assert copied
    for source in copied:
        assert (ROOT / source).exists(), source
        assert f"!{source.partition('/')[0]}" in allowed, source


def test_nothing_keeps_kuberay_from_its_own_command():
    assert all_of("ENTRYPOINT") == []
    assert len(all_of("CMD")) == 1


def test_it_is_reached_from_outside_of_its_container(monkeypatch):
    program, *arguments = json.loads(all_of("CMD")[0])
    assert program == "embedfleet"
    called = []
    monkeypatch.setattr(serving, "serve", lambda *given, **_: called.append(given) or 0)
    assert cli.main(arguments) == 0
    assert called == [("serve_config.yaml", "auto", "0.0.0.0", None)]
