"""Log-probabilities of a prompt's own tokens, by one forward pass of transformers and PEFT."""

from pathlib import Path

import torch

from adapters import ADAPTERS, load_with_adapter
from checkpoints import Checkpoint
from common import greedy_token_logprobs, next_token_logits, random_ids, seven_digits, write_json

LENGTHS = [1, 2, 17]
TOP = 3


def write_prompts(checkpoint: Checkpoint, model_folder: Path) -> int:
    """Write prompt-cases.json of one checkpoint and return the number of cases."""
    eos = checkpoint.config["vocab_size"] - 1
    names = [None, *(adapter.name for adapter in ADAPTERS[checkpoint.name] if adapter.kind in ("prefix", "cpt", "cartridge"))]
    cases = []
    for name in names:
        model = load_with_adapter(model_folder, name)
        for length in LENGTHS:
            generator = torch.Generator().manual_seed(checkpoint.seed * 3_000_000 + len(cases))
            prompt = random_ids(generator, eos, length)
            logits = next_token_logits(model, prompt)[:-1]
            best = logits.double().log_softmax(-1).topk(TOP)
            cases.append(
                {
                    "adapter": name,
                    "prompt_ids": prompt,
                    "token_logprobs": [seven_digits(value) for value in greedy_token_logprobs(logits, prompt[1:]).tolist()],
                    "top_logprobs": [
                        [[token, seven_digits(value)] for token, value in zip(ids, values)]
                        for ids, values in zip(best.indices.tolist(), best.values.tolist())
                    ],
                }
            )
    write_json(model_folder / "prompt-cases.json", {"model": checkpoint.name, "cases": cases})
    return len(cases)
