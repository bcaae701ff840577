"""A wrong config file is refused before anything starts, with the field and the fix."""

from __future__ import annotations

import pytest
import yaml

from cluster.service.config_file import (
    LOOPBACK,
    ConfigError,
    Ingress,
    listening_at,
    read_config,
)

OURS = "deployments.app:build"
MINILM = {"name": "all-MiniLM-L6-v2"}


@pytest.fixture
def written(tmp_path):
    """Returns a config file of an app's arguments, or of a text."""

    def write(args, **top):
        file = tmp_path / "serve_config.yaml"
        app = {"import_path": "deployments.app:build", "args": args}
        text = args if isinstance(args, str) else yaml.safe_dump({"applications": [app], **top})
        file.write_text(text)
        return file

    return write


def why(file):
    with pytest.raises(ConfigError) as refused:
        read_config(file)
    return str(refused.value)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (
            {"models": [{**MINILM, "treads": 2}]},
            "models.0.treads: unknown key, did you mean `threads`?",
        ),
        ({"modells": [MINILM]}, "args: modells: unknown key, did you mean `models`?"),
        ({"models": [MINILM], "limits": {"max_request": 5}}, "did you mean `max_requests`?"),
        ({}, "args: models: is missing"),
        ({"models": []}, "args: models: must not be empty"),
        ({"models": MINILM}, "args: models: must be a list"),
        ({"models": ["all-MiniLM-L6-v2"]}, "models.0: must be fields with values, such as `name: "),
        ({"models": [MINILM, MINILM]}, "args: models named twice: all-MiniLM-L6-v2"),
        (
            {"models": [{**MINILM, "replicas": {"min_replicas": 3, "max_replicas": 1}}]},
            "models.0.replicas: min_replicas is above max_replicas",
        ),
        (
            {"models": [{**MINILM, "replicas": {"min_replicas": -1}}]},
            "models.0.replicas.min_replicas: must be greater than or equal to 0",
        ),
        (
            {"models": [{**MINILM, "threads": "many"}]},
            "models.0.threads: must be a whole number, or must be 'auto'",
        ),
    ],
)
def test_what_is_wrong_with_the_arguments(written, args, words):
    assert words in why(written(args))


@pytest.mark.parametrize(
    ("top", "words"),
    [
        ({"http_option": {}}, "http_option: unknown key, did you mean `http_options`?"),
        ({"http_options": {"prt": 1}}, "http_options.prt: unknown key, did you mean `port`?"),
        ({"http_options": {"port": -1}}, "http_options.port: must be a whole number"),
        ({"http_options": {"port": 0}}, "http_options.port: must be a whole number"),
        ({"http_options": {"port": 65_536}}, "from 1 to 65535, not 65536"),
        ({"http_options": {"port": True}}, "http_options.port: must be a whole number"),
        ({"http_options": {"port": "eight"}}, "http_options.port: must be a whole number"),
        ({"http_options": {"host": 127}}, "http_options.host: must be"),
        ({"http_options": {"host": ""}}, "http_options.host: must be"),
        ({"http_options": {"ssl_certfile": "a"}}, "set both ssl_keyfile and ssl_certfile"),
        ({"http_options": {"ssl_keyfile": "a"}}, "set both ssl_keyfile and ssl_certfile"),
        ({"http_options": 8000}, "http_options: must be fields with values"),
        ({"applications": []}, "`applications` is missing"),
        ({"applications": ["app"]}, "applications: must be a list of fields"),
    ],
)
def test_what_is_wrong_with_the_rest(written, top, words):
    assert words in why(written({"models": [MINILM]}, **top))


@pytest.mark.parametrize("deployments", [{"router": {"num_replicas": 2}}, ["router"], "router"])
def test_deployments_that_are_no_list_of_fields(written, deployments):
    app = {"import_path": "deployments.app:build", "args": {"models": [MINILM]}}
    file = written({}, applications=[{**app, "deployments": deployments}])
    assert "deployments: must be a list of fields with values, such as `- name:" in why(file)


@pytest.mark.parametrize(
    ("app", "words"),
    [
        ({"imort_path": "a:b"}, "0.imort_path: unknown key, did you mean `import_path`?"),
        ({"import_path": OURS, "arg": {}}, "0.arg: unknown key, did you mean `args`?"),
        ({"import_path": OURS, "deployment": []}, "0.deployment: unknown key, did you mean `depl"),
        ({"import_path": "other:app", "prefix": "/"}, "0.prefix: unknown key"),
        ({"args": {}}, "0.import_path: is missing; ours is `deployments.app:build`"),
        (
            {"import_path": OURS, "deployments": [{"name": "router", "num_replica": 2}]},
            "0.deployments.0.num_replica: unknown key, did you mean `num_replicas`?",
        ),
    ],
)
def test_keys_of_an_application_that_serve_would_pass_over(written, app, words):
    assert f"applications.{words}" in why(written({}, applications=[app]))


def test_a_certificate_makes_it_https(written):
    tls = {"ssl_keyfile": "key.pem", "ssl_certfile": "cert.pem"}
    assert read_config(written({"models": [MINILM]}, http_options=tls)).tls
    assert not read_config(written({"models": [MINILM]}, http_options={"host": None})).tls


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "`applications` is missing"),
        ("- a", "`applications` is missing"),
        ("applications: [", "is not YAML: "),
        ("a: 1\nb: }", "line 2, column 4"),
    ],
)
def test_what_is_no_config(written, text, words):
    assert words in why(written(text))


def test_a_file_that_is_not_there_is_shown_as_it_could_be(tmp_path):
    file = tmp_path / "missing.yaml"
    line, _, example = why(file).partition("\n\n")
    assert line.startswith(f"there is no {file}; ")
    file.write_text(example)
    assert read_config(file) == Ingress(None, 8000, 256, models=("all-MiniLM-L6-v2",))


@pytest.mark.parametrize("host", [None, "0.0.0.0"])
def test_without_a_host_nobody_else_reaches_it(written, host):
    http = {"port": 9000, **({"host": host} if host else {})}
    file = written({"models": [MINILM]}, http_options=http)
    ingress = read_config(file)
    assert ingress == Ingress(host, 9000, 256, models=("all-MiniLM-L6-v2",))
    with listening_at(file, ingress.host or LOOPBACK, ingress.port) as bound:
        content = yaml.safe_load(bound.read_text())
    assert (bound == file) == (host is not None)
    assert content["http_options"] == {"port": 9000, "host": host or "127.0.0.1"}
    assert content["applications"] == yaml.safe_load(file.read_text())["applications"]


def test_what_the_command_says_wins(written):
    file = written({"models": [MINILM]}, http_options={"port": 9000, "keep_alive_timeout_s": 5})
    with listening_at(file, "::1", 9001) as bound:
        http = yaml.safe_load(bound.read_text())["http_options"]
    assert http == {"host": "::1", "port": 9001, "keep_alive_timeout_s": 5}
