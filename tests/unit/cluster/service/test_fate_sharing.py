"""Processes that end with their parent, and orphans that are found and ended."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from testing.waiting import until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs Linux' prctl")

# starts a child that does what it is told, prints its pid, and waits
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(60)
"""
CHILD = """
import signal, time
from cluster.service.fate_sharing import signal_when_parent_ends
signal_when_parent_ends(signal.SIGKILL)
print("ready", flush=True)
time.sleep(60)
"""
# adopts the grandchild of a child that ends at once, and ends it
ADOPTS = """
import os, subprocess, sys, time
from cluster.service import fate_sharing
spared = subprocess.Popen(["sleep", "60"])
fate_sharing.adopt_orphans()
orphan = "import subprocess; print(subprocess.Popen(['sleep', '60'], stdout=-3).pid)"
run = subprocess.run([sys.executable, "-c", orphan], stdout=subprocess.PIPE, check=True)
assert int(run.stdout) in fate_sharing.children()
assert fate_sharing.end_children(10, {spared.pid}) == set()
assert fate_sharing.children() == {spared.pid}
assert spared.poll() is None
spared.kill()
"""
REAPS = """
import os, signal, subprocess, sys, time
from cluster.service import fate_sharing
fate_sharing.adopt_orphans()
orphan = "import subprocess; print(subprocess.Popen(['sleep', '60'], stdout=-3).pid)"
run = subprocess.run([sys.executable, "-c", orphan], stdout=subprocess.PIPE, check=True)
pid = int(run.stdout)
os.kill(pid, signal.SIGKILL)
time.sleep(0.5)
os.kill(pid, 0)  # a process that has ended and that nobody has waited for seems to be alive
fate_sharing.reap_orphans(set())
try:
    os.kill(pid, 0)
except ProcessLookupError:
    sys.exit(0)
sys.exit("it is still in the table")
"""


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"


def test_a_child_ends_with_its_parent():
    command = [sys.executable, "-c", PARENT, CHILD]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert exists(child)
    parent.send_signal(signal.SIGKILL)
    parent.wait(10)
    until(lambda: not exists(child), 10, "the child has ended")


@pytest.mark.parametrize("program", [ADOPTS, REAPS], ids=["ends", "reaps"])
def test_orphans(program):
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
