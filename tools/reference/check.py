"""Check stored cases against one uncached forward pass each: `python tools/reference/check.py [--golden DIR]`."""

import argparse
import os
import warnings
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers.utils import logging

from adapters import load_with_adapter
from common import DEFAULT_OUTPUT, greedy_token_logprobs, read_json

TOLERANCE = 2e-4
PROCESSORS = {"repetition_penalty", "min_new_tokens", "no_repeat_ngram_size"}


def main() -> None:
    """Check every model folder and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--golden", type=Path, default=DEFAULT_OUTPUT)
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore")

    for folder in sorted((arguments.golden / "models").iterdir()):
        document = read_json(folder / "cases.json")
        models = {name: load_with_adapter(folder, name) for name in {case["adapter"] for case in document["cases"]}}
        worst, adapted, at_limit = 0.0, 0, 0
        for case in document["cases"]:
            logits = _logits_of_completion(models[case["adapter"]], case)
            worst = max(worst, _check_case(case, logits, document))
            at_limit += _length(case) == document["n_positions"] + 1
            if case["adapter"] is not None:
                base_logits = _logits_of_completion(models[None], case)
                adapted += not torch.equal(base_logits.argmax(-1), logits.argmax(-1))
        of_adapters = sum(case["adapter"] is not None for case in document["cases"])
        print(
            f"{folder.name}: {len(document['cases'])} cases, largest logprob difference {worst:.1e}, "
            f"{at_limit} fill every position, the adapter changes the tokens of {adapted} of {of_adapters}"
        )


def _length(case: dict) -> int:
    """Positions of prefix, prompt and completion together."""
    real = ("hard_prompt_ids", "prompt_ids", "token_ids")
    return case["virtual_tokens"] + sum(len(case.get(key, [])) for key in real)


def _logits_of_completion(model: torch.nn.Module, case: dict) -> torch.Tensor:
    """Raw logits `[steps, vocab]` that predict each stored token, from one forward pass without a cache.

    Soft prompts that are embeddings put their virtual tokens into the output too, so rows are counted from the end.
    """
    ids = torch.tensor([case.get("hard_prompt_ids", []) + case["prompt_ids"] + case["token_ids"][:-1]])
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
    return logits[-len(case["token_ids"]) :]


def _check_case(case: dict, logits: torch.Tensor, document: dict) -> float:
    """Raise if a stored case contradicts `logits`; return the largest difference of a log-probability."""
    tokens, eos = case["token_ids"], document["eos_token_id"]
    difference = (greedy_token_logprobs(logits, tokens) - torch.tensor(case["token_logprobs"])).abs().max().item()
    ended = tokens[-1] == eos
    consistent = {
        "log-probabilities": difference < TOLERANCE,
        "argmax": bool(PROCESSORS & case.keys()) or logits.argmax(-1).tolist() == tokens,
        "EOS only at the end": eos not in tokens[:-1],
        "finish reason": case["finish_reason"] == ("eos" if ended else "length"),
        "length": ended or len(tokens) == case["max_new_tokens"],
        "positions": _length(case) <= document["n_positions"] + 1,
    }
    failed = [name for name, holds in consistent.items() if not holds]
    if failed:
        raise SystemExit(f"{document['model']} {case['id']}: {', '.join(failed)} (difference {difference:.2e})")
    return difference


if __name__ == "__main__":
    main()
