"""The rival's side of against_llama_cpp.py and converted_in_llama_cpp.py: llama.cpp, in a Python of its own.

    python benchmarks/llama_cpp_worker.py MODEL.gguf [plain]

"plain" keeps weights as the file has them: the AMX kernels of version 0.3.36 crash on some CPUs with Q8_0 and Q4_0.
Reads one JSON request a line on stdin and answers each with one line on stdout:
{"do": "encode", "tokens": […], "threads": n} and {"do": "decode", "tokens": […], "threads": n} → {"seconds": s},
{"do": "features", "tokens": […]} → the last token's normalised state, {"do": "logits", "tokens": […]} → those after it,
{"do": "tokens", "text": …} → ids, {"do": "about"} → version, build, peak memory.
It needs nothing of bitrl.
"""

import json
import os
import re
import sys
import time
from pathlib import Path

import llama_cpp as rival

CONTEXT = 128


class Model:
    def __init__(self, path: str, plain: bool) -> None:
        rival.llama_backend_init()
        parameters = rival.llama_model_default_params()
        parameters.n_gpu_layers = 0
        parameters.use_extra_bufts = not plain
        self.model = rival.llama_model_load_from_file(path.encode(), parameters)
        settings = rival.llama_context_default_params()
        settings.n_ctx = settings.n_batch = settings.n_ubatch = CONTEXT
        settings.pooling_type = rival.LLAMA_POOLING_TYPE_NONE
        self.context = rival.llama_init_from_model(self.model, settings)
        self.batch = rival.llama_batch_init(CONTEXT, 0, 1)
        self.width = rival.llama_model_n_embd(self.model)

    def forget(self) -> None:
        rival.llama_memory_clear(rival.llama_get_memory(self.context), True)

    def forward(self, tokens: list[int], start: int = 0) -> None:
        """Whole forward pass; of the last token alone also the output head: the least that llama.cpp can do."""
        self.batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            self.batch.token[i] = token
            self.batch.pos[i] = start + i
            self.batch.n_seq_id[i] = 1
            self.batch.seq_id[i][0] = 0
            self.batch.logits[i] = i == len(tokens) - 1
        if rival.llama_decode(self.context, self.batch) != 0:
            sys.exit("llama_decode failed")

    def encode(self, tokens: list[int]) -> float:
        self.forget()
        began = time.perf_counter()
        self.forward(tokens)
        rival.llama_synchronize(self.context)
        return time.perf_counter() - began

    def decode(self, tokens: list[int]) -> float:
        """One step for each token but the first eight, which are the prompt. Nothing is sampled."""
        self.forget()
        self.forward(tokens[:8])
        began = time.perf_counter()
        for i, token in enumerate(tokens[8:], 8):
            self.forward([token], i)
            rival.llama_get_logits_ith(self.context, -1)
        return time.perf_counter() - began

    def features(self, tokens: list[int]) -> list[float]:
        self.forget()
        rival.llama_set_embeddings(self.context, True)
        self.forward(tokens)
        found = rival.llama_get_embeddings_ith(self.context, -1)[: self.width]
        rival.llama_set_embeddings(self.context, False)
        return list(found)

    def logits(self, tokens: list[int]) -> list[float]:
        self.forget()
        self.forward(tokens)
        vocabulary = rival.llama_vocab_n_tokens(rival.llama_model_get_vocab(self.model))
        return list(rival.llama_get_logits_ith(self.context, -1)[:vocabulary])

    def tokens(self, text: str) -> list[int]:
        """Control tokens in the text are text, and none is added."""
        raw, vocabulary = text.encode(), rival.llama_model_get_vocab(self.model)
        found = (rival.llama_token * (len(raw) + 8))()
        count = rival.llama_tokenize(vocabulary, raw, len(raw), found, len(found), False, False)
        return list(found[:count])


def main(path: str, plain: bool) -> None:
    answers = os.fdopen(os.dup(1), "w")  # llama.cpp prints what it likes
    os.dup2(2, 1)
    model = Model(path, plain)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "about":
            peak = re.search(r"^VmHWM:\s+(\d+)", Path("/proc/self/status").read_text(), re.M)[1]
            answer = {
                "version": rival.__version__,
                "build": rival.llama_print_system_info().decode().strip(),
                "peak_rss_mb": int(peak) / 1024,
            }
        elif request["do"] in ("features", "logits"):
            answer = {request["do"]: getattr(model, request["do"])(request["tokens"])}
        elif request["do"] == "tokens":
            answer = {"tokens": model.tokens(request["text"])}
        else:
            rival.llama_set_n_threads(model.context, request["threads"], request["threads"])
            answer = {"seconds": getattr(model, request["do"])(request["tokens"])}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:] == ["plain"])
