"""What is done to a running service beside calling it: deploying, flooding."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import threading
import time

import yaml

# of this service's own Ray, whose dashboard `serve deploy` talks to
RAY_TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def deploy(running, *deployments: dict) -> None:
    """Deploys the service's own config file again, with these options of its deployments."""
    redeploy(running, lambda app: app.update(deployments=list(deployments)))


def redeploy(running, edit) -> None:
    """Deploys the service's own config file again, after ``edit`` of its application."""
    file = running.log.parent / "serve_config.yaml"
    config = yaml.safe_load(file.read_text())
    edit(config["applications"][0])
    file.write_text(yaml.safe_dump(config))
    dashboard = re.search(r"dashboard at \S*?(http://[\d.:]+)", running.log.read_text())[1]
    command = [sys.executable, "-m", "ray.serve.scripts", "deploy", str(file), "-a", dashboard]
    subprocess.run(command, check=True, timeout=120, env={**os.environ, **RAY_TOKEN})


class flood:
    """Keeps a model busy for as long as the block runs."""

    def __init__(self, running, **body):
        self.running, self.body, self.stop = running, body, threading.Event()
        self.threads = [threading.Thread(target=self._send) for _ in range(4)]

    def _send(self):
        with self.running.client() as http:
            while not self.stop.is_set():
                http.post("/v1/embeddings", json=self.body)

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        time.sleep(1.0)

    def __exit__(self, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()
