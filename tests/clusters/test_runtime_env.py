"""A Ray runtime environment that brings the workers a package `cluster` of the user's own."""

from __future__ import annotations

import subprocess
import sys

from testing.running import environment_in, short_folder
from tests.support.documents import ROOT

PROGRAM = """
import sys
import ray
from embedfleet.data import JobError, connect

for folder in sys.argv[1:]:
    ray.init("local", num_cpus=1, runtime_env={"working_dir": folder}, include_dashboard=False)
    try:
        connect()
        print("all is ours")
    except JobError as error:
        print(error)
    ray.shutdown()
"""


def test_a_working_directory_that_hides_a_package_of_ours_is_named(tmp_path):
    for name in ("cluster", "other"):
        (tmp_path / name / name).mkdir(parents=True)
        (tmp_path / name / name / "__init__.py").write_text("")
    folders = [str(tmp_path / name) for name in ("cluster", "other")]
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *folders],
        env={**environment_in(short_folder()), "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    hidden, ours = run.stdout.splitlines()
    assert "`cluster` there is /" in hidden
    assert "working_dir_files/_ray_pkg_" in hidden
    assert ours == "all is ours"
