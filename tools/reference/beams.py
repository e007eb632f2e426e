"""Beam searches by transformers and PEFT: every returned sequence with its score."""

from pathlib import Path

import torch

from adapters import ADAPTERS, load_with_adapter
from checkpoints import Checkpoint
from common import greedy_token_logprobs, next_token_logits, random_ids, seven_digits, write_json

SMALLEST_RELATIVE_GAP = 2e-3
SMALLEST_RELATIVE_GAP_OF_MANY = 2e-4
ATTEMPTS = 200
SETTINGS = [
    {"num_beams": 2, "length_penalty": 1.0, "max_new_tokens": 8},
    {"num_beams": 3, "length_penalty": 0.0, "max_new_tokens": 12},
    {"num_beams": 4, "length_penalty": 2.0, "max_new_tokens": 16},
]
OPTIONS = [
    {"num_beams": 5, "length_penalty": 1.0, "max_new_tokens": 12, "early_stopping": True},
    {"num_beams": 3, "length_penalty": 1.5, "max_new_tokens": 16, "early_stopping": "never"},
    {"num_beams": 3, "length_penalty": -1.0, "max_new_tokens": 10},
    {"num_beams": 5, "length_penalty": 1.0, "max_new_tokens": 12, "min_new_tokens": 5},
    {"num_beams": 4, "length_penalty": 1.0, "max_new_tokens": 12, "repetition_penalty": 1.3},
    {"num_beams": 3, "length_penalty": 1.0, "max_new_tokens": 8, "repetition_penalty": 0.7},
    {"num_beams": 3, "length_penalty": 1.0, "max_new_tokens": 10, "more_ends": 2},
    {"num_beams": 16, "length_penalty": 1.0, "max_new_tokens": 5},
]
# The first is how the paper decodes table-to-text.
PROCESSORS = [
    {"num_beams": 5, "length_penalty": 1.0, "max_new_tokens": 12, "min_new_tokens": 5, "bad_words": True},
    {"num_beams": 4, "length_penalty": 1.0, "max_new_tokens": 12, "no_repeat_ngram_size": 2},
]
OPTIONAL = ("early_stopping", "min_new_tokens", "repetition_penalty", "more_ends", "bad_words", "no_repeat_ngram_size")


def write_beams(checkpoint: Checkpoint, model_folder: Path) -> int:
    """Write beam-cases.json of one checkpoint and return the number of cases."""
    names = [None, *(adapter.name for adapter in ADAPTERS[checkpoint.name] if adapter.kind in ("prefix", "cpt"))]
    cases = []
    for name in names:
        model = load_with_adapter(model_folder, name)
        precise = load_with_adapter(model_folder, name).double()
        for settings in SETTINGS:
            seed = checkpoint.seed * 2_000_000 + len(cases) * 1000
            case = _find_case(model, precise, checkpoint, settings, seed)
            if case is None:
                raise RuntimeError(f"{checkpoint.name}: no prompt gives a clear beam search with {settings}")
            cases.append({"adapter": name, **case})
    for group in (OPTIONS, PROCESSORS):
        append_cases(cases, names[:3], group, checkpoint, model_folder)
    write_json(model_folder / "beam-cases.json", {"model": checkpoint.name, "cases": cases})
    return len(cases)


def append_cases(cases: list[dict], names: list[str | None], group: list[dict], checkpoint: Checkpoint, model_folder: Path) -> None:
    """Append the cases of `group` that can be found, with the log-probabilities of their tokens."""
    for name in names:
        model = load_with_adapter(model_folder, name)
        precise = load_with_adapter(model_folder, name).double()
        for settings in group:
            seed = checkpoint.seed * 2_000_000 + len(cases) * 1000
            case = _find_case(model, precise, checkpoint, settings, seed)
            if case is None:
                continue
            for sequence in case["sequences"]:
                logits = next_token_logits(model, case["prompt_ids"] + sequence["token_ids"])[len(case["prompt_ids"]) - 1 : -1]
                logprobs = greedy_token_logprobs(logits, sequence["token_ids"])
                sequence["token_logprobs"] = [seven_digits(value) for value in logprobs.tolist()]
            cases.append({"adapter": name, **case})


def _find_case(
    model: torch.nn.Module, precise: torch.nn.Module, checkpoint: Checkpoint, settings: dict, seed: int
) -> dict | None:
    """Draw prompts until the ranking is clear, float64 returns the same sequences, one is ended by EOS, and options matter.

    Some options matter to no prompt of some model: None.
    """
    eos = checkpoint.config["vocab_size"] - 1
    gap = SMALLEST_RELATIVE_GAP if settings["num_beams"] < 8 else SMALLEST_RELATIVE_GAP_OF_MANY
    options = {key: value for key, value in settings.items() if key not in ("more_ends", "bad_words")}
    plain = {key: value for key, value in options.items() if key not in OPTIONAL}
    for attempt in range(ATTEMPTS):
        generator = torch.Generator().manual_seed(seed + attempt)
        prompt = random_ids(generator, eos, 2 + attempt % 5)
        ends = [eos]
        without = _ids(_search(model, ends, prompt, plain)) if plain != settings else None
        if "more_ends" in settings:
            ends += sorted(set(without[0][1:]) - {eos})[: settings["more_ends"]]
        if "bad_words" in settings:
            options["bad_words_ids"] = [without[0][:1], without[1][1:3]]
            if [] in options["bad_words_ids"] or [eos] in options["bad_words_ids"]:
                continue
        sequences = _search(model, ends, prompt, options)
        scores = [sequence["score"] for sequence in sequences]
        gaps = [(better - worse) / abs(better) for better, worse in zip(scores, scores[1:])]
        ids = _ids(sequences)
        if min(gaps) < gap or not any(sequence[-1] in ends for sequence in ids) or ids == without:
            continue
        if ids == _ids(_search(precise, ends, prompt, options)):
            more = {"eos_token_ids": ends} if "more_ends" in settings else {}
            return {"prompt_ids": prompt, **options, **more, "sequences": sequences}
    return None


def _ids(sequences: list[dict]) -> list[list[int]]:
    return [sequence["token_ids"] for sequence in sequences]


def _search(model: torch.nn.Module, ends: list[int], prompt: list[int], options: dict) -> list[dict]:
    """All beams, best first; what follows the end is padding and cut."""
    input_ids = torch.tensor([prompt])
    with torch.no_grad():
        result = model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            do_sample=False,
            num_return_sequences=options["num_beams"],
            eos_token_id=ends,
            pad_token_id=ends[0],
            return_dict_in_generate=True,
            output_scores=True,
            **options,
        )
    sequences = []
    for row, score in zip(result.sequences[:, len(prompt) :].tolist(), result.sequences_scores.tolist()):
        end = next((index + 1 for index, token in enumerate(row) if token in ends), len(row))
        sequences.append({"token_ids": row[:end], "score": seven_digits(score)})
    return sequences
