"""Memory that a step has freed is kept for the next one."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys

import pytest

from quatrain.train import machine

FAULTS = """
import ctypes, resource, sys
from quatrain.train.machine import keep_freed_memory

libc, size = ctypes.CDLL(None), 100 << 20
libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
libc.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(size)
    libc.memset(block, 1, size)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if sys.argv[1] == "kept":
    assert keep_freed_memory()
faults()
print(faults())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc gives freed blocks back")
def test_a_block_that_was_freed_costs_no_page_faults_again() -> None:
    found = {}
    for way in ("kept", "left alone"):
        command = [sys.executable, "-c", FAULTS, way]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[way] = int(done.stdout)
    assert found["kept"] < 10 < found["left alone"]


def test_where_the_c_library_is_another_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: object())
    assert not machine.keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not machine.keep_freed_memory()
