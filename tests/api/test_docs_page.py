"""A browser shows the description at /docs, though the service has keys."""

from __future__ import annotations

import html
import re
import subprocess

from deployments.api.auth import ApiKeys
from deployments.api.routes import ROUTES
from tests.api.calls import app_of
from tests.api.fake_backend import FakeBackend
from tests.api.serving import serving
from tests.support.browser import BROWSER, OPTIONS, needs_browser


def page_at(url: str, profile: str) -> str:
    """Returns the page as the browser has built it, with its scripts run."""
    waits = "--virtual-time-budget=10000"
    run = subprocess.run(
        [BROWSER, "--headless", *OPTIONS, waits, f"--user-data-dir={profile}", "--dump-dom", url],
        capture_output=True,
        text=True,
        timeout=50,
        check=True,
    )
    return run.stdout


@needs_browser
def test_a_browser_lists_every_operation_though_the_service_has_keys(tmp_path):
    with serving(app_of(FakeBackend(), keys=ApiKeys(["secret"]))) as url:
        page = page_at(f"{url}/docs", str(tmp_path))
    shown = {html.unescape(path) for path in re.findall(r'data-path="([^"]*)"', page)}
    assert shown == {spec.route.path_format for spec in ROUTES if spec.summary}
    assert "Authorize" in page
