"""What arguments of the command line may be."""

from __future__ import annotations

from argparse import ArgumentTypeError

import pytest

from cluster import cli
from cluster.arguments import port, positive, service_url, threads


@pytest.mark.parametrize(("kind", "text", "number"), [(positive, "1", 1), (port, "65535", 65_535)])
def test_numbers(kind, text, number):
    assert kind(text) == number


@pytest.mark.parametrize(
    ("kind", "text"),
    [(kind, text) for kind in (positive, port) for text in ("0", "-1", "1.5", "", "x")]
    + [(port, "65536")],
)
def test_what_is_refused(kind, text):
    with pytest.raises(ArgumentTypeError, match=repr(text)):
        kind(text)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("gpu-1:8000/v1", "http://gpu-1:8000"),
        ("http://gpu-1:8000/v1/", "http://gpu-1:8000"),
        ("https://embed.example.com/", "https://embed.example.com"),
        ("https://example.com/embed/v1", "https://example.com/embed"),
    ],
)
def test_the_address_of_a_service(text, url):
    assert service_url(text) == url


@pytest.mark.parametrize(("text", "value"), [("auto", "auto"), ("2", 2)])
def test_threads(text, value):
    assert threads(text) == value


@pytest.mark.parametrize(
    "command", ["serve", "env", "encode", "score", "models", "check", "verify"]
)
def test_each_command_says_what_it_does(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    usage, description, *_ = capsys.readouterr().out.split("\n\n")
    assert usage.startswith("usage: ")
    assert description.endswith(".")


@pytest.mark.parametrize("option", [["--dtype", "float32"], ["--threads", "1"], ["--truncate"]])
def test_options_of_models_want_a_model(option, capsys):
    assert cli.main(["serve", *option]) == 2
    assert f"{option[0]} goes with --model" in capsys.readouterr().err
