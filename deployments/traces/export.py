"""Where traces go: to whatever OpenTelemetry's own variables (``OTEL_…``) name, by OTLP over HTTP.

Without them traces are off, and nothing of OpenTelemetry is imported.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from deployments.traces.recording import Tracing

log = logging.getLogger("ray.serve")
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HTTP = "http/protobuf"


def tracing_from(environ: Mapping[str, str] = os.environ) -> Tracing | None:
    """Returns what makes traces, as the variables say; None if they do not ask for any.

    If the variables cannot be followed, it logs why and returns None: a service without traces is
    better than none. The SDK and its exporter read the other variables from the process's environment.
    """
    if not _are_wanted(environ):
        return None
    protocol = next(filter(None, map(environ.get, _PROTOCOLS)), _HTTP)
    if protocol != _HTTP:
        log.error(
            "traces are off: %s is %s, which is not supported; set it to %s, and the endpoint to a "
            "collector's port for HTTP (4318 by default)",
            *(_PROTOCOLS[1], protocol, _HTTP),
        )
        return None
    try:
        return _exporting(environ)
    except ImportError as error:
        log.error(
            "traces are off although OTEL_ variables ask for them: %s; pip install "
            "'embedfleet[traces]'",
            error,
        )
    except Exception as error:  # the SDK has no class for variables that it refuses
        names = sorted(name for name in environ if name.startswith("OTEL_") and environ[name])
        log.error("traces are off: OpenTelemetry refuses one of %s: %s", ", ".join(names), error)
    return None


def _are_wanted(environ: Mapping[str, str]) -> bool:
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if exporters := environ.get("OTEL_TRACES_EXPORTER"):
        return "otlp" in [name.strip() for name in exporters.split(",")]
    return any(map(environ.get, _ENDPOINTS))


def _exporting(environ: Mapping[str, str]) -> Tracing:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    from deployments.traces.recording import Tracing

    is_named = environ.get("OTEL_SERVICE_NAME") or (
        "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    )
    resource = Resource.create({} if is_named else {"service.name": "embedfleet"})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    log.info("traces are exported by OTLP")
    return Tracing(provider.get_tracer("embedfleet"), provider.shutdown)
