"""Beam searches by transformers and PEFT: every returned sequence with its score."""

from pathlib import Path

import torch

from adapters import ADAPTERS, load_with_adapter
from checkpoints import Checkpoint
from common import random_ids, seven_digits, write_json

SMALLEST_RELATIVE_GAP = 2e-3
ATTEMPTS = 200
SETTINGS = [
    {"num_beams": 2, "length_penalty": 1.0, "max_new_tokens": 8},
    {"num_beams": 3, "length_penalty": 0.0, "max_new_tokens": 12},
    {"num_beams": 4, "length_penalty": 2.0, "max_new_tokens": 16},
]


def write_beams(checkpoint: Checkpoint, model_folder: Path) -> int:
    """Write beam-cases.json of one checkpoint and return the number of cases."""
    names = [None, *(adapter.name for adapter in ADAPTERS[checkpoint.name] if adapter.kind in ("prefix", "cpt"))]
    cases = []
    for name in names:
        model = load_with_adapter(model_folder, name)
        precise = load_with_adapter(model_folder, name).double()
        for settings in SETTINGS:
            seed = checkpoint.seed * 2_000_000 + len(cases) * 1000
            cases.append({"adapter": name, **_find_case(model, precise, checkpoint, settings, seed)})
    write_json(model_folder / "beam-cases.json", {"model": checkpoint.name, "cases": cases})
    return len(cases)


def _find_case(
    model: torch.nn.Module, precise: torch.nn.Module, checkpoint: Checkpoint, settings: dict, seed: int
) -> dict:
    """Draw prompts until the ranking is clear and float64 returns the same sequences, one of them ended by EOS."""
    eos = checkpoint.config["vocab_size"] - 1
    for attempt in range(ATTEMPTS):
        generator = torch.Generator().manual_seed(seed + attempt)
        prompt = random_ids(generator, eos, 2 + attempt % 5)
        sequences = _search(model, eos, prompt, settings)
        scores = [sequence["score"] for sequence in sequences]
        gaps = [(better - worse) / abs(better) for better, worse in zip(scores, scores[1:])]
        ids = [sequence["token_ids"] for sequence in sequences]
        if min(gaps) < SMALLEST_RELATIVE_GAP or not any(sequence[-1] == eos for sequence in ids):
            continue
        if ids == [sequence["token_ids"] for sequence in _search(precise, eos, prompt, settings)]:
            return {"prompt_ids": prompt, **settings, "sequences": sequences}
    raise RuntimeError(f"{checkpoint.name}: no prompt gives a clear beam search with {settings}")


def _search(model: torch.nn.Module, eos: int, prompt: list[int], settings: dict) -> list[dict]:
    """All beams, best first; what follows EOS is padding and cut."""
    input_ids = torch.tensor([prompt])
    with torch.no_grad():
        result = model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            do_sample=False,
            num_return_sequences=settings["num_beams"],
            eos_token_id=eos,
            pad_token_id=eos,
            return_dict_in_generate=True,
            output_scores=True,
            **settings,
        )
    sequences = []
    for row, score in zip(result.sequences[:, len(prompt) :].tolist(), result.sequences_scores.tolist()):
        end = row.index(eos) + 1 if eos in row else len(row)
        sequences.append({"token_ids": row[:end], "score": seven_digits(score)})
    return sequences
