"""What transformers' processors and warpers make of fixed logits and histories, and greedy generations with them."""

from dataclasses import dataclass
from pathlib import Path

import torch
from transformers.generation.logits_process import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from adapters import ADAPTERS, load_with_adapter
from checkpoints import Checkpoint
from common import float32_digits, random_ids, write_json
from generations import ATTEMPTS, SMALLEST_MARGIN, Request, generate_case
from warpers import tiny_model

BEST = 8
CUTOFFS = {
    MinPLogitsWarper: "min_p",
    TopPLogitsWarper: "top_p",
    TypicalLogitsWarper: "mass",
    EpsilonLogitsWarper: "epsilon",
    EtaLogitsWarper: "epsilon",
}


class PresenceAndFrequencyPenalty(LogitsProcessor):
    """vLLM's apply_penalties (vllm/model_executor/layers/utils.py): over generated tokens only, frequency first."""

    def __init__(self, prompt_length: int, presence: float, frequency: float):
        self.prompt_length, self.presence, self.frequency = prompt_length, presence, frequency

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        counts = torch.zeros_like(scores, dtype=torch.int64)
        generated = input_ids[:, self.prompt_length :]
        counts.scatter_add_(1, generated, torch.ones_like(generated))
        scores = scores - torch.tensor(self.frequency) * counts
        return scores - torch.tensor(self.presence) * (counts > 0)


def transformers_arguments(parameters: dict, prompt_length: int) -> dict:
    """Arguments of generate() for parameters under our names."""
    arguments = dict(parameters)
    penalties = [arguments.pop(name, 0.0) for name in ("presence_penalty", "frequency_penalty")]
    if any(penalties):
        arguments["logits_processor"] = LogitsProcessorList([PresenceAndFrequencyPenalty(prompt_length, *penalties)])
    if "logit_bias" in arguments:
        bias = arguments.pop("logit_bias")
        singles = [[[int(token)], float(value)] for token, value in bias.items()]
        arguments["sequence_bias"] = singles + arguments.get("sequence_bias", [])
    if "bad_words" in arguments:
        arguments["bad_words_ids"] = arguments.pop("bad_words")
    return arguments


def write_processors(path: Path) -> int:
    """Write processors.json and return the number of cases."""
    generator = torch.Generator().manual_seed(11)
    rows = [torch.randn(size, generator=generator) * scale for size, scale in ((19, 2), (48, 4), (90, 1.5))]
    rows.append(torch.randint(-6, 7, (60,), generator=generator).float() / 2)
    cases = []
    for number, kind in enumerate(_kinds()):
        for index, row in enumerate(rows):
            case = _case(row, index, kind, number)
            if case is not None:
                cases.append(case)
    kinds_left = {case["kind"] for case in cases}
    if len(kinds_left) < len(_kinds()):
        raise RuntimeError(f"only kinds {sorted(kinds_left)} have cases whose outcome does not hang on rounding")
    write_json(path, {"logits": [float32_digits(row) for row in rows], "cases": cases})
    return len(cases)


def _kinds() -> list[dict]:
    """Parameters; ids are filled in for each row: `bad_words` and `logit_bias` name kinds of ids here."""
    processors = [
        *({"no_repeat_ngram_size": size} for size in (1, 2, 3)),
        {"bad_words": "single"},
        {"bad_words": "phrases"},
        {"logit_bias": "few"},
        {"logit_bias": "raise"},
        {"presence_penalty": 0.7},
        {"frequency_penalty": 0.4},
        {"presence_penalty": -0.9, "frequency_penalty": 0.3},
        {"frequency_penalty": -1.1},
        {"repetition_penalty": 1.4, "presence_penalty": 0.5, "logit_bias": "few"},
        {"repetition_penalty": 0.7, "no_repeat_ngram_size": 2, "bad_words": "phrases"},
        {
            "repetition_penalty": 1.2,
            "frequency_penalty": 0.35,
            "no_repeat_ngram_size": 3,
            "bad_words": "single",
            "logit_bias": "raise",
            "min_new_tokens": 20,
        },
    ]
    warpers = [
        *({"top_k": 0, "typical_p": value} for value in (0.05, 0.2, 0.5, 0.9, 0.99)),
        *({"top_k": 0, "epsilon_cutoff": value} for value in (0.001, 0.02, 0.3)),
        *({"top_k": 0, "eta_cutoff": value} for value in (0.001, 0.02, 0.3)),
        {"typical_p": 0.8},
        {"temperature": 0.6, "top_k": 0, "typical_p": 0.7},
        {"temperature": 1.8, "top_k": 0, "typical_p": 0.7},
        {"temperature": 1.5, "top_k": 12, "top_p": 0.9, "min_p": 0.02, "typical_p": 0.6},
        {"top_k": 0, "top_p": 0.8, "typical_p": 0.5, "epsilon_cutoff": 0.01},
        {"top_k": 0, "typical_p": 0.9, "epsilon_cutoff": 0.01, "eta_cutoff": 0.05},
        {"top_k": 0, "min_p": 0.05, "eta_cutoff": 0.1, "temperature": 1.3},
    ]
    both = [
        {"repetition_penalty": 1.3, "logit_bias": "raise", "top_k": 0, "typical_p": 0.6},
        {"no_repeat_ngram_size": 2, "presence_penalty": 0.8, "temperature": 0.7, "top_p": 0.9},
        {"bad_words": "single", "frequency_penalty": -0.5, "top_k": 5},
        {"repetition_penalty": 0.8, "logit_bias": "few", "top_k": 0, "temperature": 1.6, "eta_cutoff": 0.02},
    ]
    greedy = [{**parameters, "do_sample": False} for parameters in processors]
    on_logprobs = [{**parameters, "do_sample": False, "log_softmax": True} for parameters in processors]
    sampled = [{"do_sample": True, **parameters} for parameters in processors + warpers + both]
    return greedy + on_logprobs + sampled


def _case(row: torch.Tensor, index: int, kind: dict, number: int) -> dict | None:
    """Run generate()'s own list of processors on one row; None if rounding decides."""
    generator = torch.Generator().manual_seed(5000 + 10 * number + index)
    best = row.argsort(descending=True).tolist()
    # A few ids that come again and again, likely ones among them, so that n-grams repeat.
    pool = [best[0], best[1], best[4], *random_ids(generator, len(row) - 1, 2)]
    draw = torch.randint(len(pool), (3 + number % 9 + 6,), generator=generator).tolist()
    history = [pool[at] for at in draw]
    prompt, generated = history[: 3 + number % 9], history[3 + number % 9 :]
    parameters = _filled(kind, best, history, generator)

    log_softmax = parameters.get("log_softmax", False)
    arguments = transformers_arguments({k: v for k, v in parameters.items() if k != "log_softmax"}, len(prompt))
    own = arguments.pop("logits_processor", LogitsProcessorList())
    model = tiny_model(len(row))
    config, _ = model._prepare_generation_config(None, max_new_tokens=16, **arguments)
    model._prepare_special_tokens(config, kwargs_has_attention_mask=True, device=torch.device("cpu"))
    processors = model._get_logits_processor(config, len(prompt), device="cpu", logits_processor=own)

    input_ids = torch.tensor([history])
    scores = (row.log_softmax(-1) if log_softmax else row)[None]
    for processor in processors:
        before, scores = scores, processor(input_ids, scores)
        if _hangs_on_rounding(processor, input_ids, before, scores):
            return None
    kept = (scores[0] > -torch.inf).nonzero()[:, 0].tolist()
    case = {"kind": number, "logits": index, "prompt_ids": prompt, "generated_ids": generated, "parameters": parameters}
    if parameters["do_sample"]:
        probabilities = float32_digits(scores[0].softmax(-1)[kept])
        return {**case, "survivors": [list(pair) for pair in zip(kept, probabilities)]}
    order = sorted(kept, key=lambda token: (-scores[0, token].item(), token))[:BEST]
    return {**case, "best": [list(pair) for pair in zip(order, float32_digits(scores[0][order]))]}


def _filled(kind: dict, best: list[int], history: list[int], generator: torch.Generator) -> dict:
    """The parameters with ids in place of the names of kinds."""
    parameters = dict(kind)
    words = {
        "single": [[best[0]], [best[3]], [best[-1]]],
        "phrases": [[*history[-2:], best[0]], [history[-1], best[1]], [best[2], best[1], best[5]], [best[6]]],
    }
    biases = {
        "few": {best[0]: -1.5, best[2]: -100.0, best[9]: -0.25},
        "raise": {best[-1]: 100.0 if len(best) == 19 else 6.0, best[7]: 2.5, best[1]: -0.7},
    }
    if "bad_words" in parameters:
        parameters["bad_words"] = words[parameters["bad_words"]]
    if "logit_bias" in parameters:
        parameters["logit_bias"] = {str(token): value for token, value in biases[parameters["logit_bias"]].items()}
    return parameters


def _hangs_on_rounding(processor: LogitsProcessor, ids: torch.Tensor, before: torch.Tensor, after: torch.Tensor) -> bool:
    """Whether float64, or a cutoff that is a little different, would keep other tokens."""
    cutoff = CUTOFFS.get(type(processor))
    if cutoff is None:
        return False
    kept = after > -torch.inf
    value = float(getattr(processor, cutoff))
    others = [processor(ids, before.double()), *(type(processor)(value * by)(ids, before) for by in (1 - 1e-5, 1 + 1e-5))]
    return any(not torch.equal(other > -torch.inf, kept) for other in others)


@dataclass(frozen=True)
class ProcessorRequest:
    """One greedy generation with parameters under our names."""

    prompt_length: int
    max_new_tokens: int
    parameters: dict

    def processors(self) -> dict:
        """As the case records them."""
        return self.parameters

    def arguments(self) -> dict:
        """As generate() takes them."""
        return transformers_arguments(self.parameters, self.prompt_length)


def write_processor_cases(checkpoint: Checkpoint, model_folder: Path) -> int:
    """Write processor-cases.json of one checkpoint and return the number of cases."""
    names = [None, next(adapter.name for adapter in ADAPTERS[checkpoint.name] if adapter.kind == "prefix")]
    models = {name: load_with_adapter(model_folder, name) for name in names}
    cases = []
    for number, make in enumerate(GREEDY):
        name = names[number % 2]
        seed = checkpoint.seed * 3_000_000 + number * 1000
        cases.append({"adapter": name, **_find_case(models[name], checkpoint, make, seed)})
    document = {"model": checkpoint.name, "eos_token_id": checkpoint.config["vocab_size"] - 1, "cases": cases}
    write_json(model_folder / "processor-cases.json", document)
    return len(cases)


# From the tokens of the plain generation to parameters that should change it.
GREEDY = [
    lambda plain: {"no_repeat_ngram_size": 2},
    lambda plain: {"no_repeat_ngram_size": 3, "repetition_penalty": 1.05},
    lambda plain: {"no_repeat_ngram_size": 1},
    lambda plain: {"bad_words": [[plain[1]], [plain[3], plain[4]], plain[5:8]]},
    lambda plain: {"bad_words": [plain[2:5], plain[6:8]], "min_new_tokens": 16},
    lambda plain: {"logit_bias": {str(plain[0]): -4.0, str((plain[0] + 7) % 200): 1.5}},
    lambda plain: {"logit_bias": {str(plain[2]): -100.0, "3": 3.0}, "repetition_penalty": 1.2},
    lambda plain: {"presence_penalty": 0.9},
    lambda plain: {"frequency_penalty": 0.6},
    lambda plain: {"presence_penalty": -1.0, "frequency_penalty": 0.8},
    lambda plain: {"frequency_penalty": -0.7},
    lambda plain: {"repetition_penalty": 0.8},
    lambda plain: {
        "repetition_penalty": 1.15,
        "presence_penalty": 0.4,
        "frequency_penalty": 0.3,
        "no_repeat_ngram_size": 2,
        "bad_words": [[plain[0]], plain[3:5]],
        "logit_bias": {str(plain[1]): -1.0, "5": 1.0},
        "min_new_tokens": 18,
    },
]


def _find_case(model: torch.nn.Module, checkpoint: Checkpoint, make, seed: int) -> dict:
    """Draw prompts until every choice is clear and differs from the plain generation's."""
    eos = checkpoint.config["vocab_size"] - 1
    for attempt in range(ATTEMPTS):
        generator = torch.Generator().manual_seed(seed + attempt)
        length = 2 + attempt % 11
        prompt = random_ids(generator, eos, length)
        plain = generate_case(model, eos, [], prompt, Request(length, 20))["token_ids"]
        if len(plain) < 9:
            continue
        case = generate_case(model, eos, [], prompt, ProcessorRequest(length, 20, make(plain)))
        if min(case["margins"]) >= SMALLEST_MARGIN and case["token_ids"] != plain and len(case["token_ids"]) > 6:
            return case
    raise RuntimeError(f"{checkpoint.name}: no prompt gives a clear case of {make([*range(20)])}")
