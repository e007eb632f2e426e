"""Processors and warpers in random combinations: on fixed logits and histories, and in greedy generations."""

from pathlib import Path

import torch
from transformers.generation.logits_process import LogitsProcessor, LogitsProcessorList, TopHLogitsWarper

from adapters import ADAPTERS, load_with_adapter
from checkpoints import Checkpoint
from common import float32_digits, random_ids, write_json
from generations import ATTEMPTS, SMALLEST_MARGIN, Request, generate_case
from processors import CUTOFFS, ProcessorRequest, transformers_arguments
from warpers import tiny_model

BEST = 8
CASES = 240
GREEDY_CASES = 10
NEW_TOKENS = 12
FORCED_MARGIN = 1e6
ALL_CUTOFFS = {**CUTOFFS, TopHLogitsWarper: "top_h"}


class Draws:
    """Seeded choices of parameters."""

    def __init__(self, seed: int):
        self.generator = torch.Generator().manual_seed(seed)

    def below(self, limit: int) -> int:
        """A uniform integer in [0, limit)."""
        return int(torch.randint(limit, (1,), generator=self.generator))

    def chance(self, share: float) -> bool:
        """True that often."""
        return float(torch.rand(1, generator=self.generator)) < share

    def pick(self, values: list):
        """One of them."""
        return values[self.below(len(values))]

    def ids(self, pool: list[int], most: int) -> list[int]:
        """Up to `most` ids of the pool, one at least."""
        return [self.pick(pool) for _ in range(1 + self.below(most))]


def random_processors(draws: Draws, pool: list[int], share: float) -> dict:
    """Parameters under our names; each comes with probability `share`, with ids from `pool`."""
    makers = {
        "logit_bias": lambda: {str(token): draws.pick([-100.0, -2.5, -0.4, 1.5, 6.0]) for token in draws.ids(pool[::2], 3)},
        "sequence_bias": lambda: [
            [ids, draws.pick([-50.0, -3.0, -0.7, 0.9, 4.0])]
            for ids in (draws.ids(pool[1::2], 3) for _ in range(1 + draws.below(6)))
        ],
        "repetition_penalty": lambda: draws.pick([0.7, 1.2, 1.6]),
        "presence_penalty": lambda: draws.pick([-0.8, 0.5, 1.5]),
        "frequency_penalty": lambda: draws.pick([-0.5, 0.3, 1.1]),
        "no_repeat_ngram_size": lambda: 1 + draws.below(3),
        "bad_words": lambda: [draws.ids(pool, 3) for _ in range(1 + draws.below(4))],
        "min_new_tokens": lambda: 1 + draws.below(9),
        "suppress_tokens": lambda: draws.ids(pool, 4),
        "begin_suppress_tokens": lambda: draws.ids(pool, 4),
        "forced_bos_token_id": lambda: draws.pick(pool),
        "exponential_decay_length_penalty": lambda: [draws.below(5), draws.pick([0.8, 1.05, 1.3])],
    }
    parameters = {name: make() for name, make in makers.items() if draws.chance(share)}
    # transformers would add infinity to minus infinity.
    if "min_new_tokens" in parameters and "exponential_decay_length_penalty" in parameters:
        del parameters["min_new_tokens"]
    if parameters.get("forced_bos_token_id") in parameters.get("suppress_tokens", []):
        del parameters["suppress_tokens"]
    return parameters


def force_end(parameters: dict, ids: int | list[int]) -> None:
    """Add forced_eos_token_id, unless transformers would refuse it."""
    if not set(ids if isinstance(ids, list) else [ids]) <= set(parameters.get("suppress_tokens", [])):
        parameters["forced_eos_token_id"] = ids


def random_warpers(draws: Draws, share: float) -> dict:
    """Parameters of sampling, as `random_processors`."""
    makers = {
        "temperature": lambda: draws.pick([0.6, 0.9, 1.4, 2.5]),
        "top_h": lambda: draws.pick([0.2, 0.5, 0.8]),
        "top_k": lambda: draws.pick([1, 3, 12, 40]),
        "top_p": lambda: draws.pick([0.2, 0.6, 0.95]),
        "min_p": lambda: draws.pick([0.01, 0.1, 0.4]),
        "typical_p": lambda: draws.pick([0.2, 0.6, 0.95]),
        "epsilon_cutoff": lambda: draws.pick([0.002, 0.03, 0.2]),
        "eta_cutoff": lambda: draws.pick([0.002, 0.03, 0.2]),
    }
    return {"top_k": 0, **{name: make() for name, make in makers.items() if draws.chance(share)}}


def write_combinations(path: Path) -> int:
    """Write combinations.json and return the number of cases."""
    generator = torch.Generator().manual_seed(23)
    rows = [torch.randn(size, generator=generator) * scale for size, scale in ((24, 2.5), (70, 1.5), (180, 2), (180, 0.7))]
    cases = []
    number = 0
    while len(cases) < CASES:
        case = _case(rows, Draws(9000 + number), number)
        number += 1
        if case is not None:
            cases.append(case)
    write_json(path, {"logits": [float32_digits(row) for row in rows], "cases": cases})
    return len(cases)


def _case(rows: list[torch.Tensor], draws: Draws, number: int) -> dict | None:
    """generate()'s own list of processors on one row; None if rounding decides, or nothing may come."""
    index = draws.below(len(rows))
    row = rows[index]
    best = row.argsort(descending=True).tolist()
    ends = [len(row) - 1] if draws.chance(0.7) else [len(row) - 1, best[2]]
    pool = [*best[:4], *random_ids(draws.generator, len(row), 3), *ends]
    prompt = draws.ids(pool, 1 if draws.chance(0.3) else 6)
    generated = [draws.pick(pool) for _ in range(draws.pick([0, 0, 1, 2, 5, 7, NEW_TOKENS - 1, NEW_TOKENS - 1]))]
    mode = number % 4
    parameters = random_processors(draws, pool, 0.25)
    if draws.chance(0.4):
        force_end(parameters, draws.pick([ends, pool[0], [pool[0], pool[5]]]))
    if mode >= 2:
        parameters = {"do_sample": True, **parameters, **random_warpers(draws, 0.35)}
    on_beams = mode in (1, 3)
    if on_beams and draws.chance(0.3):
        parameters["renormalize_logits"] = True

    arguments = transformers_arguments(parameters, len(prompt))
    own = arguments.pop("logits_processor", LogitsProcessorList())
    model = tiny_model(len(row))
    config, _ = model._prepare_generation_config(
        None, max_new_tokens=NEW_TOKENS, eos_token_id=ends, num_beams=2 if on_beams else 1, **arguments
    )
    config.max_length = len(prompt) + NEW_TOKENS
    model._prepare_special_tokens(config, kwargs_has_attention_mask=True, device=torch.device("cpu"))
    processors = model._get_logits_processor(config, len(prompt), device="cpu", logits_processor=own)

    input_ids = torch.tensor([prompt + generated])
    scores = (row.log_softmax(-1) if on_beams else row)[None]
    for processor in processors:
        before, scores = scores, processor(input_ids, scores)
        if hangs_on_rounding(processor, input_ids, before, scores):
            return None
    kept = (scores[0] > -torch.inf).nonzero()[:, 0].tolist()
    if not kept:
        return None
    case = {"logits": index, "prompt_ids": prompt, "generated_ids": generated, "eos_ids": ends, "beams": on_beams, "parameters": parameters}
    order = sorted(kept, key=lambda token: (-scores[0, token].item(), token))
    best_pairs = [list(pair) for pair in zip(order[:BEST], float32_digits(scores[0][order[:BEST]]))]
    if "do_sample" not in parameters:
        return {**case, "best": best_pairs}
    survivors = [list(pair) for pair in zip(kept, float32_digits(scores[0].softmax(-1)[kept]))]
    return {**case, "best": best_pairs, "survivors": survivors}


def hangs_on_rounding(processor: LogitsProcessor, ids: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> bool:
    """Whether float64, or a cutoff that is a little different, would keep other tokens, or equal scores leave torch a choice."""
    cutoff = ALL_CUTOFFS.get(type(processor))
    if cutoff is None:
        return False
    kept = after > -torch.inf
    possible = before[before > -torch.inf]
    if len(possible.unique()) < len(possible):
        return True
    value = float(getattr(processor, cutoff))
    changed = []
    for factor in (1 - 1e-5, 1 + 1e-5):
        other = type(processor)(min(value * factor, 1.0))
        if hasattr(processor, "min_tokens_to_keep"):
            other.min_tokens_to_keep = processor.min_tokens_to_keep
        changed.append(other(ids, before))
    return any(not torch.equal(other > -torch.inf, kept) for other in (processor(ids, before.double()), *changed))


def write_combination_cases(checkpoint: Checkpoint, model_folder: Path) -> int:
    """Write combination-cases.json of one checkpoint and return the number of cases."""
    names = [None, *(adapter.name for adapter in ADAPTERS[checkpoint.name] if adapter.kind in ("prefix", "cpt"))]
    models = {name: load_with_adapter(model_folder, name) for name in names}
    cases = []
    for number in range(GREEDY_CASES):
        name = names[number % len(names)]
        case = _find_greedy(models[name], checkpoint, checkpoint.seed * 4_000_000 + number * 1000)
        cases.append({"id": f"{name or 'base'}/combination {number}", "adapter": name, **case})
    document = {"model": checkpoint.name, "eos_token_id": checkpoint.config["vocab_size"] - 1, "cases": cases}
    write_json(model_folder / "combination-cases.json", document)
    return len(cases)


def _find_greedy(model: torch.nn.Module, checkpoint: Checkpoint, seed: int) -> dict:
    """Draw prompts and parameters until every choice is clear and differs from the plain generation's."""
    eos = checkpoint.config["vocab_size"] - 1
    for attempt in range(ATTEMPTS):
        draws = Draws(seed + attempt)
        length = draws.pick([1, 1, 4, 9])
        prompt = random_ids(draws.generator, eos, length)
        plain = generate_case(model, eos, [], prompt, Request(length, NEW_TOKENS))["token_ids"]
        parameters = random_processors(draws, [*plain, *prompt], 0.3)
        if draws.chance(0.5):
            force_end(parameters, draws.pick([eos, plain[0]]))
        case = generate_case(model, eos, [], prompt, ProcessorRequest(length, NEW_TOKENS, parameters))
        case["margins"] = [min(margin, FORCED_MARGIN) for margin in case["margins"]]
        if len(parameters) >= 3 and min(case["margins"]) >= SMALLEST_MARGIN and case["token_ids"] != plain and len(case["token_ids"]) > 3:
            return case
    raise RuntimeError(f"{checkpoint.name}: no prompt gives a clear case from seed {seed}")
