"""Beam searches with processors, stop strings and draws in random combinations, by transformers and PEFT."""

from contextlib import contextmanager
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode
from transformers.generation.logits_process import LogitsProcessorList

from adapters import ADAPTERS, load_with_adapter
from checkpoints import Checkpoint
from combinations import Draws, force_end, random_processors
from common import random_ids, seven_digits, write_json
from processors import transformers_arguments

SMALLEST_RELATIVE_GAP = 1e-3
ATTEMPTS = 400
CASES = 12
SAMPLES = 20_000
COMMON_OUTCOME = 40
DRAWS = [
    {"num_beams": 2, "max_new_tokens": 2, "parameters": {"do_sample": True, "top_k": 4, "temperature": 1.3}},
    {
        "num_beams": 3,
        "max_new_tokens": 2,
        "parameters": {"do_sample": True, "top_k": 5, "top_p": 0.9, "repetition_penalty": 1.2, "renormalize_logits": True},
    },
]


def text_of(token: int) -> str:
    """The tests' tokenizer for models that have none: 256 bytes, then an upper-case after a lower-case letter."""
    rest = token - 256
    return bytes_to_unicode()[token] if rest < 0 else chr(97 + rest % 26) + chr(65 + rest // 26)


def tokenizer_of(vocab_size: int) -> PreTrainedTokenizerFast:
    """`text_of` as transformers wants it."""
    tokenizer = Tokenizer(models.BPE(vocab={text_of(token): token for token in range(vocab_size)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def philox(index: int, seed: int) -> tuple[int, int]:
    """Two words of Philox4x32-10 (Salmon and others, SC11) at counter (index, 0, 0, 0) under the key (seed, 0)."""
    mask = 0xFFFFFFFF
    counter, key = [index & mask, 0, 0, 0], [seed & mask, 0]
    for _ in range(10):
        first, second = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [(second >> 32) ^ counter[1] ^ key[0], second & mask, (first >> 32) ^ counter[3] ^ key[1], first & mask]
        key = [(key[0] + 0x9E3779B9) & mask, (key[1] + 0xBB67AE85) & mask]
    return counter[0], counter[1]


def uniform(seed: int, index: int) -> float:
    """The server's number in [0, 1) for one draw."""
    high, low = philox(index, seed)
    return ((high >> 5) * 2**26 + (low >> 6)) / 2**53


@contextmanager
def seeded_draws(seed: int, vocab_size: int):
    """torch.multinomial without replacement on numbers of ours: one draw after another over beams in order, their tokens likeliest first."""
    drawn = 0
    original = torch.multinomial

    def multinomial(probabilities: torch.Tensor, num_samples: int) -> torch.Tensor:
        nonlocal drawn
        weights = probabilities[0].double().reshape(-1, vocab_size)
        order = weights.argsort(dim=-1, descending=True, stable=True)
        order = (order + torch.arange(len(weights))[:, None] * vocab_size).reshape(-1)
        left = probabilities[0].double()[order].clone()
        chosen = []
        for draw in range(num_samples):
            total = left.sum()
            if total <= 0:
                break
            u = uniform(seed, drawn + draw)
            at = min(int((left.cumsum(0) <= u * total).sum()), len(left) - 1)
            chosen.append(int(order[at]))
            left[at] = 0
        drawn += num_samples
        # What torch fills up with has no probability; here the unlikeliest tokens, which come to nothing.
        rest = [token for token in probabilities[0].argsort().tolist() if token not in set(chosen)]
        return torch.tensor([(chosen + rest)[:num_samples]])

    torch.multinomial = multinomial
    try:
        yield
    finally:
        torch.multinomial = original


def write_beam_options(checkpoint: Checkpoint, model_folder: Path) -> int:
    """Write beam-option-cases.json of one checkpoint and return the number of cases."""
    names = [None, *(adapter.name for adapter in ADAPTERS[checkpoint.name] if adapter.kind in ("prefix", "cpt"))]
    pairs = {name: (load_with_adapter(model_folder, name), load_with_adapter(model_folder, name).double()) for name in names}
    tokenizer = tokenizer_of(checkpoint.config["vocab_size"])
    cases = []
    for number in range(2 * CASES):
        name = names[number % len(names)]
        seed = checkpoint.seed * 5_000_000 + number * 1000
        cases.append({"adapter": name, **_find_case(*pairs[name], checkpoint, tokenizer, number, seed)})
    draws = [
        {"adapter": name, **_count_draws(pairs[name][0], checkpoint, settings, number)}
        for number, (name, settings) in enumerate(zip((names[1], names[2]), DRAWS))
    ]
    document = {"model": checkpoint.name, "eos_token_id": checkpoint.config["vocab_size"] - 1, "cases": cases, "draws": draws}
    write_json(model_folder / "beam-option-cases.json", document)
    return len(cases) + len(draws)


def _find_case(model, precise, checkpoint: Checkpoint, tokenizer, number: int, seed: int) -> dict:
    """Draw prompts and options until the ranking is clear, float64 returns the same sequences, and the options matter."""
    eos = checkpoint.config["vocab_size"] - 1
    for attempt in range(ATTEMPTS):
        draws = Draws(seed + attempt)
        prompt = random_ids(draws.generator, eos, draws.pick([1, 3, 6]))
        search = {"num_beams": 2 + draws.below(4), "max_new_tokens": 4 + draws.below(8), "length_penalty": draws.pick([1.0, 0.0, 1.7])}
        if draws.chance(0.3):
            search["early_stopping"] = draws.pick([True, "never"])
        plain = _search(model, eos, prompt, search, {}, tokenizer)
        pool = [*plain[0]["token_ids"], *plain[1]["token_ids"], *prompt]
        parameters = random_processors(draws, pool, 0.2)
        if draws.chance(0.3):
            parameters["renormalize_logits"] = True
        if draws.chance(0.2):
            force_end(parameters, draws.pick([eos, pool[0], [eos, pool[1]]]))
        options = {**search, "parameters": parameters}
        if number % 3 == 0:
            options["stop"] = _stop_strings(draws, plain, prompt)
            if options["stop"] == []:
                continue
        if number >= CASES:
            parameters.update({"do_sample": True, "top_k": draws.pick([0, 8, 50]), "temperature": draws.pick([0.7, 1.0, 1.5])})
            options["seed"] = draws.below(2**31)
            if draws.chance(0.4):
                parameters.update(draws.pick([{"top_p": 0.8}, {"min_p": 0.05}, {"typical_p": 0.7}, {"eta_cutoff": 0.01}, {"top_h": 0.7}, {"epsilon_cutoff": 0.02}]))
        elif len(parameters) == 0 and "stop" not in options:
            continue
        sequences = _search(model, eos, prompt, search, options, tokenizer)
        scores = [sequence["score"] for sequence in sequences]
        if min(scores) < -1e4 or any((a - b) / abs(a) < SMALLEST_RELATIVE_GAP for a, b in zip(scores, scores[1:])):
            continue
        if _ids(sequences) == _ids(plain) or ("stop" in options and not any(sequence["stopped"] for sequence in sequences)):
            continue
        if _ids(sequences) == _ids(_search(precise, eos, prompt, search, options, tokenizer)):
            return {"prompt_ids": prompt, **options, "sequences": sequences}
    raise RuntimeError(f"{checkpoint.name}: no prompt gives a clear beam search from seed {seed}")


def _stop_strings(draws: Draws, plain: list[dict], prompt: list[int]) -> list[str]:
    """Parts of what the search would give, in ASCII, of which the prompt does not hold the beginning."""
    before = "".join(text_of(token) for token in prompt)
    strings = []
    for sequence in plain[:2]:
        tokens = sequence["token_ids"]
        at = draws.below(len(tokens))
        string = "".join(text_of(token) for token in tokens[at : at + 1 + draws.below(2)])
        begun = any(before.endswith(string[:length]) for length in range(1, len(string) + 1))
        if all(33 <= ord(letter) <= 126 for letter in string) and not begun:
            strings.append(string)
    return strings


def _ids(sequences: list[dict]) -> list[list[int]]:
    return [sequence["token_ids"] for sequence in sequences]


def _arguments(eos: int, prompt: list[int], search: dict, options: dict, tokenizer) -> dict:
    arguments = {**search, **transformers_arguments(options.get("parameters", {}), len(prompt))}
    arguments.setdefault("do_sample", False)
    if "stop" in options:
        arguments.update(stop_strings=options["stop"], tokenizer=tokenizer)
    return {**arguments, "eos_token_id": eos, "pad_token_id": eos}


def _search(model, eos: int, prompt: list[int], search: dict, options: dict, tokenizer) -> list[dict]:
    """All beams, best first; what follows the end is padding and cut."""
    input_ids = torch.tensor([prompt])
    vocab_size = eos + 1
    with torch.no_grad(), seeded_draws(options.get("seed", 0), vocab_size):
        result = model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            num_return_sequences=search["num_beams"],
            return_dict_in_generate=True,
            output_scores=True,
            **_arguments(eos, prompt, search, options, tokenizer),
        )
    lengths = (result.beam_indices >= 0).sum(1).tolist()
    sequences = []
    for row, length, score in zip(result.sequences[:, len(prompt) :].tolist(), lengths, result.sequences_scores.tolist()):
        tokens = row[:length]
        stopped = length < search["max_new_tokens"] and tokens[-1] != eos
        sequences.append({"token_ids": tokens, "score": seven_digits(score), "stopped": stopped})
    return sequences


def _count_draws(model, checkpoint: Checkpoint, settings: dict, number: int) -> dict:
    """How often torch's own draws give each list of sequences; the rare ones are left out."""
    eos = checkpoint.config["vocab_size"] - 1
    prompt = random_ids(torch.Generator().manual_seed(checkpoint.seed * 77 + number), eos, 4)
    search = {key: settings[key] for key in ("num_beams", "max_new_tokens")}
    arguments = _arguments(eos, prompt, search, settings, None)
    input_ids = torch.tensor([prompt]).repeat(2000, 1)
    torch.manual_seed(31 + number)
    counts: dict[tuple, int] = {}
    for _ in range(SAMPLES // len(input_ids)):
        with torch.no_grad():
            result = model.generate(
                input_ids=input_ids, attention_mask=torch.ones_like(input_ids), num_return_sequences=search["num_beams"], **arguments
            )
        for group in result[:, len(prompt) :].reshape(len(input_ids), search["num_beams"], -1).tolist():
            key = tuple(tuple(row[: row.index(eos) + 1] if eos in row else row) for row in group)
            counts[key] = counts.get(key, 0) + 1
    common = sorted(((count, key) for key, count in counts.items() if count >= COMMON_OUTCOME), reverse=True)
    outcomes = [{"sequences": [list(row) for row in key], "count": count} for count, key in common]
    return {"prompt_ids": prompt, **settings, "samples": SAMPLES, "outcomes": outcomes}
