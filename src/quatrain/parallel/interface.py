"""The network interface that leads to the other machines. Needs no torch.

Processes tell one another their addresses. torch takes that of the machine's name, which is often
one that no other machine can reach, such as 127.0.1.1.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import MutableMapping
from contextlib import suppress

_CHOSEN = "GLOO_SOCKET_IFNAME"
_ADDRESS_OF = 0x8915
"""Linux: the IPv4 address of an interface (SIOCGIFADDR)."""


def choose_interface(environ: MutableMapping[str, str]) -> None:
    """Choose the interface through which the first machine is reached, unless the user has chosen.

    Args:
        environ: with the variables of torchrun.
    """
    if environ.get(_CHOSEN) or "MASTER_ADDR" not in environ:
        return
    with suppress(OSError, ImportError):  # no such address, or not Linux: torch chooses
        address = _own_address_towards(environ["MASTER_ADDR"])
        is_local = address.startswith("127.")
        if is_local and environ.get("LOCAL_WORLD_SIZE") != environ.get("WORLD_SIZE"):
            return  # the first machine's own name for itself
        if name := _interface_of(address):
            environ[_CHOSEN] = name


def _own_address_towards(host: str) -> str:
    """Give the address of this machine from which packets to a host go; none is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((host, 9))
        return str(probe.getsockname()[0])


def _interface_of(address: str) -> str | None:
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            asked = struct.pack("256s", os.fsencode(name)[:15])
            with suppress(OSError):  # without an address
                found = fcntl.ioctl(probe.fileno(), _ADDRESS_OF, asked)[20:24]
                if socket.inet_ntoa(found) == address:
                    return name
    return None
