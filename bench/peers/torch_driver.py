"""What a careful torch user gets on a GPU: GPT-2 with a static KV cache, SDPA and one CUDA graph a step; see protocol.ts for the lines.

    python bench/peers/torch_driver.py LAYERS HEADS WIDTH VOCABULARY

Random weights, fp16, greedy, no prefixes, all rows at the same length: the limit to be near to, not a server. A prompt is one SDPA call
a layer, kernel by kernel.
"""

import os
import statistics
import sys
import time

import torch
import torch.nn.functional as F

CONTEXT = 80
DEVICE, TYPE = "cuda", torch.float16


class Gpt2:
    def __init__(self, layers: int, heads: int, width: int, vocabulary: int) -> None:
        torch.manual_seed(0)

        def random(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, device=DEVICE).mul_(0.02).to(TYPE)

        self.layers = [
            {
                "qkv": (random(3 * width, width), random(3 * width)),
                "out": (random(width, width), random(width)),
                "fc": (random(4 * width, width), random(4 * width)),
                "proj": (random(width, 4 * width), random(width)),
            }
            for _ in range(layers)
        ]
        self.heads, self.width = heads, width
        self.embeddings = random(vocabulary, width)
        self.positions = random(1024, width)
        self.norm = (torch.ones(width, device=DEVICE, dtype=TYPE), torch.zeros(width, device=DEVICE, dtype=TYPE))

    def cache(self, rows: int, length: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
        shape = (rows, self.heads, length, self.width // self.heads)
        return [(torch.randn(shape, device=DEVICE, dtype=TYPE) * 0.02, torch.randn(shape, device=DEVICE, dtype=TYPE) * 0.02) for _ in self.layers]

    def forward(self, ids: torch.Tensor, at: torch.Tensor, cache: list[tuple[torch.Tensor, torch.Tensor]]) -> torch.Tensor:
        """ids [rows, tokens] at positions at [tokens]; answers the last token's likeliest successor."""
        rows, tokens = ids.shape
        hidden = self.embeddings[ids] + self.positions[at]
        for weights, (keys, values) in zip(self.layers, cache):
            normed = F.layer_norm(hidden, (self.width,), *self.norm)
            q, k, v = F.linear(normed, *weights["qkv"]).view(rows, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            keys.index_copy_(2, at, k)
            values.index_copy_(2, at, v)
            attended = F.scaled_dot_product_attention(q, keys, values, is_causal=tokens > 1)
            hidden = hidden + F.linear(attended.transpose(1, 2).reshape(rows, tokens, self.width), *weights["out"])
            normed = F.layer_norm(hidden, (self.width,), *self.norm)
            hidden = hidden + F.linear(F.gelu(F.linear(normed, *weights["fc"]), approximate="tanh"), *weights["proj"])
        return F.linear(F.layer_norm(hidden[:, -1], (self.width,), *self.norm), self.embeddings).argmax(-1)


def timed(call, units: int) -> float:
    """Median seconds of a call, times units."""
    times = []
    for _ in range(units + 2):
        torch.cuda.synchronize()
        started = time.perf_counter()
        call()
        torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return statistics.median(times[2:]) * units


def decode(model: Gpt2, rows: int, context: int, units: int) -> float:
    cache = model.cache(rows, context)
    ids = torch.zeros(rows, 1, dtype=torch.long, device=DEVICE)
    at = torch.tensor([context - 1], device=DEVICE)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            model.forward(ids, at, cache)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        model.forward(ids, at, cache)
    return timed(graph.replay, units)


def prefill(model: Gpt2, tokens: int, units: int) -> float:
    cache = model.cache(1, tokens)
    ids = torch.zeros(1, tokens, dtype=torch.long, device=DEVICE)
    at = torch.arange(tokens, device=DEVICE)
    return timed(lambda: model.forward(ids, at, cache), units)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    model = Gpt2(*(int(number) for number in sys.argv[1:5]))
    print("ready decode-1 decode-8 decode-32 prefill-64 prefill-256", file=answers, flush=True)
    with torch.inference_mode():
        for line in sys.stdin:
            _, work, units = line.split()
            kind, size, *rest = work.split("-")
            try:
                seconds = prefill(model, int(size), int(units)) if kind == "prefill" else decode(model, int(size), int(rest[0]) if rest else CONTEXT, int(units))
                print(seconds, file=answers, flush=True)
            except Exception as error:  # noqa: BLE001: told to the bench, which stops
                print("error", " ".join(str(error).split()), file=answers, flush=True)
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
