"""Two machines, as namespaces of this one: the command of docs/scale.md, and how they meet."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from quatrain.parallel.interface import choose_interface

NODES = Path(__file__).parents[2] / "bench" / "nodes.py"


def has_namespaces() -> bool:
    """Say whether this process may make what stands for machines."""
    if not (hasattr(os, "geteuid") and os.geteuid() == 0 and shutil.which("ip")):
        return False
    own = ["unshare", "--net", "--uts", "--pid", "--fork", "--mount-proc", "ip", "link", "add",
           "q0", "type", "veth", "peer", "name", "q1"]  # fmt: skip
    return not subprocess.run(own, capture_output=True, check=False).returncode


@pytest.mark.slow
def test_the_command_for_two_machines_runs_as_written(tmp_path: Path) -> None:
    if not has_namespaces():
        pytest.skip("needs root, and network namespaces")
    done = subprocess.run(
        [sys.executable, str(NODES), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["codes"] == [0, 0], found["said"]
    assert found["apart"] < 1e-5  # sums of float32 in another order


@pytest.mark.enable_socket
@pytest.mark.skipif(sys.platform != "linux", reason="reads interfaces as Linux has them")
def test_machines_meet_through_the_interface_that_leads_to_the_first_one() -> None:
    one = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    choose_interface(one)
    assert one["GLOO_SOCKET_IFNAME"] == "lo"
    chosen = {**one, "GLOO_SOCKET_IFNAME": "eth7"}
    choose_interface(chosen)
    assert chosen["GLOO_SOCKET_IFNAME"] == "eth7"


@pytest.mark.enable_socket
def test_a_name_that_only_its_own_machine_knows_chooses_no_interface() -> None:
    two = {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
    choose_interface(two)
    assert "GLOO_SOCKET_IFNAME" not in two
