"""The `routing` of a config and the `user_config` of the router: a wrong field is refused by name."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from cluster.service.config_file import ConfigError, Ingress, read_config
from deployments.config.schema import AppArgs, Routing, routing_of
from deployments.core.models.spec import Role, Size
from deployments.core.routing.facts import Aim

MODELS = [{"name": "all-MiniLM-L6-v2"}, {"name": "e5-small"}, {"name": "e5-small-v2"}]
NAMES = [model["name"] for model in MODELS]
PAIR = {"name": "e5", "members": [{"model": "e5-small"}, {"model": "e5-small-v2"}]}


def args(**routing) -> AppArgs:
    return AppArgs.model_validate({"models": MODELS, "routing": routing})


def test_everything_is_optional():
    routing = args().routing
    assert (routing.aim, routing.spaces, routing.sizes) == (Aim.BALANCED, (), {})


def test_all_fields():
    members = [{"model": "e5-small", "roles": ["query"]}, {"model": "e5-small-v2"}]
    routing = args(
        aim="best",
        busy_s=1,
        sizes={"e5-small": "large"},
        spaces=[{"name": "e5", "members": members, "floor": 0.5}],
        barred_licences=["non-commercial"],
    ).routing
    assert (routing.aim, routing.busy_s, routing.sizes) == (Aim.BEST, 1, {"e5-small": Size.LARGE})
    assert [m.roles for m in routing.spaces[0].members] == [(Role.QUERY,), tuple(Role)]


@pytest.mark.parametrize(
    ("routing", "words"),
    [
        ({"aim": "cheap"}, "routing.aim"),
        ({"busy_s": -1}, "routing.busy_s"),
        ({"space": []}, "routing.space\n"),
        ({"sizes": {"e5-small": "tiny"}}, "routing.sizes.e5-small"),
        ({"sizes": {"e5": "small"}}, "routing.sizes.e5: no such model"),
        ({"spaces": [{"name": "e5", "members": []}]}, "routing.spaces.0.members"),
        ({"spaces": [PAIR | {"floor": 1.5}]}, "routing.spaces.0.floor"),
        ({"spaces": [PAIR | {"name": "small"}]}, "routing.spaces.0.name: 'small' is already taken"),
        ({"spaces": [PAIR | {"name": "auto"}]}, "routing.spaces.0.name: 'auto' is already taken"),
        ({"spaces": [PAIR | {"name": "e5-small"}]}, "'e5-small' is already taken"),
        ({"spaces": [PAIR, PAIR]}, "routing.spaces.1.name: 'e5' is already taken"),
        (
            {"spaces": [PAIR, PAIR | {"name": "other"}]},
            "routing.spaces.1.members.0.model: 'e5-small' is already in a space",
        ),
        (
            {"spaces": [{"name": "e5", "members": [{"model": "e5-small"}, {"model": "e6"}]}]},
            "routing.spaces.0.members.1.model: 'e6' is not among the models",
        ),
    ],
)
def test_a_wrong_field_is_named(routing, words):
    with pytest.raises(ValidationError) as refused:
        args(**routing)
    assert words in str(refused.value)


@pytest.mark.parametrize("default", ["auto", "e5", "e5-small"])
def test_the_default_model_may_be_auto_or_a_space(default):
    fields = {"models": MODELS, "routing": {"spaces": [PAIR]}, "default_model": default}
    assert AppArgs.model_validate(fields).default_model == default


def test_a_user_config():
    assert routing_of(None, NAMES) == Routing()
    assert routing_of({"aim": "fast"}, NAMES).aim is Aim.FAST
    with pytest.raises(ValueError, match=r"^spaces\.0\.flor: unknown key.*`floor`"):
        routing_of({"spaces": [PAIR | {"flor": 0.5}]}, NAMES)
    with pytest.raises(ValueError, match=r"^sizes\.e6: no such model"):
        routing_of({"sizes": {"e6": "small"}}, NAMES)


@pytest.mark.parametrize(
    ("user_config", "words"),
    [
        ("{aim: cheap}", "user_config: aim"),
        ("{sizes: {e6: small}}", "user_config: sizes.e6"),
    ],
)
def test_a_wrong_user_config_is_refused_before_the_start(tmp_path, user_config, words):
    file = tmp_path / "serve_config.yaml"
    file.write_text(
        "applications: [{import_path: 'deployments.app:build', args: {models: [{name: e5-small}]},"
        f" deployments: [{{name: router, user_config: {user_config}}}]}}]"
    )
    with pytest.raises(ConfigError, match=words):
        read_config(file)


@pytest.mark.parametrize(
    ("limits", "most", "seconds"),
    [("", 256, 60), (", limits: {max_requests: 9, request_timeout_s: 300}", 9, 300)],
)
def test_limits_of_the_whole_service_are_read_before_the_start(tmp_path, limits, most, seconds):
    file = tmp_path / "serve_config.yaml"
    file.write_text(
        "http_options: {port: 9000}\napplications: [{import_path: 'deployments.app:build', "
        f"args: {{models: [{{name: e5-small}}]{limits}}}}}]"
    )
    assert read_config(file) == Ingress(None, 9000, most, seconds, models=("e5-small",))
