"""What llama.cpp says of a GGUF file: the independent reader of a conversion's check.

It runs in a process of its own, since it may end the process that it is in. Needs the library
xllamacpp; without it nobody is asked. Not for judging what it says (check.py).
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from quatrain.words import say

logger = logging.getLogger(__name__)

TOP = 10
"""Likeliest tokens that are asked for at each place."""
_PATIENCE = 3600
"""Seconds, after which it is taken to hang."""
_LONGEST_REASON = 300
_SMALL = 50 * 2**20
"""Bytes of a file for which threads take longer than they save."""

Likeliest = list[tuple[int, float]]
"""Token ids and their log-probabilities."""


def is_installed() -> bool:
    """Whether llama.cpp can be asked."""
    return importlib.util.find_spec("xllamacpp") is not None


def likeliest(
    path: Path, prompts: Sequence[Sequence[int]], plain: int, context: int
) -> list[Likeliest] | None:
    """Ask which tokens are likeliest after each prompt; None, said in the log, where it fails.

    Args:
        path: of the GGUF file.
        prompts: token ids.
        plain: the id of a token that is whole text. It is chosen everywhere, since llama.cpp keeps
            to itself what it found where it chose an end or a part of a character.
        context: tokens that a prompt has at most.
    """
    if not is_installed():
        return None
    with tempfile.TemporaryDirectory() as directory:
        asked, said, errors = (Path(directory) / name for name in ("asked", "said", "errors"))
        asked.write_text(json.dumps([str(path), list(map(list, prompts)), plain, context]))
        code = "import sys; from quatrain.hub.llama_cpp import reply; reply(*sys.argv[1:])"
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        try:
            with errors.open("wb") as file:
                status = subprocess.run(
                    [sys.executable, "-c", code, str(asked), str(said)], env=environment,
                    stdin=subprocess.DEVNULL, stdout=file, stderr=file, timeout=_PATIENCE,
                ).returncode  # fmt: skip
            if status == 0:
                found: list[list[list[float]]] = json.loads(said.read_text())
                return [[(int(token), value) for token, value in one] for one in found]
            last = errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
            why = f"{status}: {''.join(last)[:_LONGEST_REASON]}"
        except (OSError, ValueError, subprocess.TimeoutExpired) as error:
            why = str(error)[:_LONGEST_REASON]
    logger.warning(say("log.no_judge", by="llama.cpp", path=path.name, why=why))
    return None


def reply(asked: str, said: str) -> None:
    """Read a file of questions, and write one of answers; runs in the process of its own."""
    import xllamacpp

    path, prompts, plain, context = json.loads(Path(asked).read_text())
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.n_ctx = context
    params.n_parallel = 1
    params.n_gpu_layers = 0
    params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
    params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
    params.warmup = False
    params.verbosity = -1
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.poll = 0  # threads that wait for each other sleep, on a machine with other work
        if Path(path).stat().st_size < _SMALL:
            cpu.n_threads = 1
    server = xllamacpp.Server(params)
    answers = []
    for prompt in prompts:
        request = {"prompt": prompt, "n_predict": 1, "temperature": 0.0, "n_probs": TOP,
                   "logit_bias": [[plain, 1e6]]}  # fmt: skip
        answer = server.handle_completions(request)
        content = answer["choices"][0]["logprobs"]["content"][0]
        answers.append([[one["id"], one["logprob"]] for one in content["top_logprobs"]])
    Path(said).write_text(json.dumps(answers))
    os._exit(0)  # its threads are not waited for
