"""Execute a notebook from top to bottom, on this interpreter, and write it with its outputs.

    python .ci/notebook.py NOTEBOOK OUTPUT [--without-network]

The kernel works in an empty directory that is removed afterwards, so that nothing of an earlier
run is found, and it is reached by files (ipc), not by a port. What is written names no machine:
no path of this one, no times of execution, no version of Python.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpec
from nbclient import NotebookClient
from nbformat import NotebookNode

SECONDS_A_CELL = 600
_LAUNCH = "from ipykernel.kernelapp import launch_new_instance; launch_new_instance()"
_WITHOUT_NETWORK = "import pytest_socket; pytest_socket.disable_socket(allow_unix_socket=True); "
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def execute(notebook: NotebookNode, network: bool = True) -> NotebookNode:
    """Run every cell in order and keep the outputs; the first error ends it.

    Args:
        notebook: changed in place.
        network: False takes sockets from the kernel, for tests.
    """
    launch = _LAUNCH if network else _WITHOUT_NETWORK + _LAUNCH
    with tempfile.TemporaryDirectory() as directory:
        work = Path(directory) / "work"
        work.mkdir()
        client = NotebookClient(
            notebook,
            timeout=SECONDS_A_CELL,
            startup_timeout=SECONDS_A_CELL,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(work)}},
        )
        manager = client.create_kernel_manager()
        manager.transport, manager.ip = "ipc", str(Path(directory) / "kernel")
        argv = [sys.executable, "-c", launch, "-f", "{connection_file}"]
        manager._kernel_spec = KernelSpec(argv=argv)  # this interpreter, whatever is installed
        client.execute()
    notebook.metadata = nbformat.from_dict(_METADATA)
    return notebook


def refuse_paths(notebook: NotebookNode) -> None:
    """Stop when an output names a place of this machine."""
    here = {str(Path.cwd()), str(Path.home()), sys.prefix, tempfile.gettempdir() + "/"}
    for number, cell in enumerate(notebook.cells):
        written = str(cell.get("outputs", ""))
        found = [place for place in here if place != "/" and place in written]
        if found:
            raise SystemExit(f"the output of cell {number} names {', '.join(found)}")


def main() -> None:
    """Execute, check and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--without-network", action="store_true", help="needs pytest-socket")
    options = parser.parse_args()
    notebook = nbformat.read(options.notebook, as_version=nbformat.NO_CONVERT)
    execute(notebook, network=not options.without_network)
    refuse_paths(notebook)
    nbformat.write(notebook, options.output)


if __name__ == "__main__":
    main()
