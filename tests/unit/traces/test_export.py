"""Traces are on only if OpenTelemetry's variables ask for what can be done."""

from __future__ import annotations

import logging
import sys

import pytest

from deployments.traces.export import tracing_from
from tests.support.importing import importing, loaded
from tests.support.otlp import collecting

HERE = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
OFF = [
    {},
    {"OTEL_EXPORTER_OTLP_ENDPOINT": ""},
    {**HERE, "OTEL_SDK_DISABLED": "True"},
    {**HERE, "OTEL_TRACES_EXPORTER": "none"},
    {**HERE, "OTEL_TRACES_EXPORTER": "console"},
    {"OTEL_SERVICE_NAME": "search", "OTEL_TRACES_SAMPLER": "always_on"},
    {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://127.0.0.1:9"},
]
ON = [
    HERE,
    {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces"},
    {"OTEL_TRACES_EXPORTER": "console, otlp"},
    {**HERE, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_SDK_DISABLED": "false"},
    {
        **HERE,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
    },
]


@pytest.fixture
def errors(monkeypatch):
    lines = []
    monkeypatch.setattr(
        logging.getLogger("ray.serve"), "error", lambda line, *args: lines.append(line % args)
    )
    return lines


@pytest.mark.parametrize("environ", OFF, ids=str)
def test_off(environ, errors):
    assert tracing_from(environ) is None
    assert errors == []


@pytest.mark.parametrize("environ", ON, ids=str)
def test_on(environ, errors):
    tracing = tracing_from(environ)
    assert tracing is not None
    tracing.close()
    assert errors == []


def test_another_protocol_is_refused_by_name(errors):
    assert tracing_from({**HERE, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}) is None
    (line,) = errors
    assert "OTEL_EXPORTER_OTLP_PROTOCOL is grpc" in line


def test_without_the_exporter_the_log_names_the_extra(errors, monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    assert tracing_from(HERE) is None
    (line,) = errors
    assert "embedfleet[traces]" in line


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OTEL_BSP_MAX_QUEUE_SIZE", "256"),  # less than a batch
        ("OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT", "many"),
    ],
)
def test_what_the_sdk_refuses_turns_traces_off_by_name(variable, value, errors, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=secret")
    monkeypatch.setenv(variable, value)
    assert tracing_from() is None
    (line,) = errors
    assert variable in line
    assert "secret" not in line


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, "embedfleet"),
        ({"OTEL_SERVICE_NAME": "search"}, "search"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=search,region=eu"}, "search"),
    ],
)
def test_the_service_has_its_own_name_or_the_one_of_the_variables(environ, name, monkeypatch):
    for variable, value in environ.items():
        monkeypatch.setenv(variable, value)
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        tracing = tracing_from()
        with tracing.request("GET", "/v1/models", {}):
            pass
        tracing.close()
        assert collector.services == {name}


def test_nothing_of_opentelemetry_is_imported_while_traces_are_off():
    modules = "deployments.api.app, deployments.api.tracing, deployments.traces.export"
    packages = loaded(importing(modules))
    assert "starlette" in packages
    assert "opentelemetry" not in packages
