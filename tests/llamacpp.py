"""Real llama.cpp, in this process: the oracle of the GGUF tests."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any


class LlamaCpp:
    """A GGUF file opened by llama.cpp, and an adapter's if there is one."""

    def __init__(self, path: Path, context: int = 512, adapter: Path | None = None) -> None:
        import xllamacpp

        params = xllamacpp.CommonParams()
        params.model.path = str(path)
        params.n_ctx = context
        if adapter:
            params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(str(adapter), 1.0)]
        params.n_parallel = 1
        params.cpuparams.n_threads = 1
        params.cpuparams_batch.n_threads = 1
        params.cache_type_k = params.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        params.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        params.warmup = False
        params.verbosity = -1
        self.server = xllamacpp.Server(params)

    def tokenize(self, texts: list[str]) -> list[list[int]]:
        """Encode texts, control tokens not parsed; by the server's own port, on this machine."""
        address = self.server.listening_address.removeprefix("http://")
        connection = http.client.HTTPConnection(address, timeout=60)
        found = []
        for text in texts:
            body = {"content": text, "add_special": False, "parse_special": False}
            connection.request("POST", "/tokenize", json.dumps(body))
            found.append(json.loads(connection.getresponse().read())["tokens"])
        connection.close()
        return found

    def next_token(self, ids: list[int], top: int = 1) -> dict[str, Any] | None:
        """Give the likeliest next token's `id` and the `top_logprobs`.

        None where it ends the text, or is a part of a character: the server keeps these to itself.
        """
        asked = {"prompt": ids, "n_predict": 1, "temperature": 0.0, "n_probs": top,
                 "cache_prompt": False}  # fmt: skip
        said: Any = self.server.handle_completions(asked)
        found = said["choices"][0]["logprobs"]
        return found["content"][0] if found and found["content"] else None
