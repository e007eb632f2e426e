"""Greedy generations by transformers and PEFT: batch 1, unpadded, float32."""

from dataclasses import dataclass
from pathlib import Path

import torch

from adapters import ADAPTERS, Adapter, load_with_adapter
from checkpoints import Checkpoint
from common import greedy_token_logprobs, random_ids, read_json, seven_digits, write_json

SMALLEST_MARGIN = 0.02
TOP = 5
ATTEMPTS = 200
VARIETY = 0.4


@dataclass(frozen=True)
class Request:
    """What is wanted of one case; prompts are drawn until the generation fits it."""

    prompt_length: int
    max_new_tokens: int
    finish: str | None = None
    hard_prompt_length: int = 0
    repetition_penalty: float | None = None
    min_new_tokens: int | None = None
    no_repeat_ngram_size: int | None = None
    starts_with_bos: bool = False

    def processors(self) -> dict:
        """The logits processors asked for, as arguments of generate()."""
        names = ("repetition_penalty", "min_new_tokens", "no_repeat_ngram_size")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def arguments(self) -> dict:
        """The same as generate() takes them."""
        return self.processors()


def write_generations(checkpoint: Checkpoint, model_folder: Path) -> list[dict]:
    """Write cases.json of one checkpoint and return its cases."""
    cases = []
    for adapter in [None, *ADAPTERS[checkpoint.name]]:
        if adapter is not None and adapter.kind == "multitask":
            continue
        name = adapter.name if adapter else None
        model = load_with_adapter(model_folder, name)
        stored = read_json(model_folder / "adapters" / name / "adapter_config.json") if name else {}
        for index, request in enumerate(_requests(checkpoint, adapter, len(cases))):
            seed = checkpoint.seed * 1_000_000 + len(cases) * 1000
            cases.append(
                {
                    "id": f"{name or 'base'}/{index}",
                    "adapter": name,
                    "virtual_tokens": stored.get("num_virtual_tokens", 0),
                    **_find_case(model, checkpoint, request, seed),
                }
            )
    document = {
        "model": checkpoint.name,
        "eos_token_id": checkpoint.config["vocab_size"] - 1,
        "n_positions": checkpoint.config["n_positions"],
        "cases": cases,
    }
    write_json(model_folder / "cases.json", document)
    return cases


def _requests(checkpoint: Checkpoint, adapter: Adapter | None, offset: int) -> list[Request]:
    """Two plain cases per adapter, and for some a third: at the position limit, or with a processor."""
    length = [1, 3, 20, 7, 12, 2, 16, 5, 9][(offset // 3) % 9]
    room = checkpoint.config["n_positions"] + 1 - (adapter.virtual_tokens if adapter else 0)
    at_limit = Request(prompt_length=room - 12, max_new_tokens=12, finish="length")
    requests = [
        Request(prompt_length=length, max_new_tokens=8 + length % 5, finish="length"),
        Request(prompt_length=min((length * 3) % 19 + 2, room - 24), max_new_tokens=24, finish="eos"),
    ]
    if adapter is None:
        return [
            *requests,
            at_limit,
            Request(prompt_length=3, max_new_tokens=10, starts_with_bos=True),
            Request(prompt_length=6, max_new_tokens=16, repetition_penalty=1.3),
            Request(prompt_length=5, max_new_tokens=16, min_new_tokens=14),
            Request(prompt_length=9, max_new_tokens=20, no_repeat_ngram_size=2),
            Request(prompt_length=4, max_new_tokens=16, hard_prompt_length=3),
            Request(prompt_length=1, max_new_tokens=12, hard_prompt_length=11, finish="eos"),
            Request(prompt_length=2, max_new_tokens=10, hard_prompt_length=1, finish="length"),
        ]
    match adapter.kind:
        case "prefix" | "prompt":
            return [*requests, at_limit]
        case "prefix-mlp":
            return [*requests, Request(prompt_length=8, max_new_tokens=16, repetition_penalty=1.3)]
        case "cartridge":
            return [*requests, Request(prompt_length=4, max_new_tokens=16, min_new_tokens=12)]
        case "cpt":
            return [*requests, Request(prompt_length=10, max_new_tokens=24, repetition_penalty=1.3, min_new_tokens=6)]
    return requests


def _find_case(model: torch.nn.Module, checkpoint: Checkpoint, request: Request, seed: int) -> dict:
    """Draw prompts from successive seeds until one fits; the wanted finish reason is given up if it never comes."""
    eos = checkpoint.config["vocab_size"] - 1
    second_best = None
    for attempt in range(ATTEMPTS):
        generator = torch.Generator().manual_seed(seed + attempt)
        hard_prompt = random_ids(generator, eos, request.hard_prompt_length)
        prompt = random_ids(generator, eos, request.prompt_length)
        if request.starts_with_bos:
            prompt[0] = eos
        case = generate_case(model, eos, hard_prompt, prompt, request)
        if not _is_decisive(case) or not _processors_matter(model, eos, case, request):
            continue
        if request.finish in (None, case["finish_reason"]) and len(case["token_ids"]) >= 4:
            return case
        second_best = second_best or case
    if second_best is None:
        raise RuntimeError(f"{checkpoint.name}: no prompt gives {request}")
    return second_best


def _is_decisive(case: dict) -> bool:
    """Whether every greedy choice is clear and the tokens vary."""
    tokens = case["token_ids"]
    return min(case["margins"]) >= SMALLEST_MARGIN and len(set(tokens)) >= VARIETY * len(tokens)


def _processors_matter(model: torch.nn.Module, eos: int, case: dict, request: Request) -> bool:
    """Whether the logits processors, if any, change the tokens."""
    if not request.processors():
        return True
    plain = Request(request.prompt_length, request.max_new_tokens)
    without = generate_case(model, eos, case.get("hard_prompt_ids", []), case["prompt_ids"], plain)
    return without["token_ids"] != case["token_ids"]


def generate_case(
    model: torch.nn.Module, eos: int, hard_prompt: list[int], prompt: list[int], request: Request
) -> dict:
    """Run generate() and record tokens, raw log-probabilities and margins.

    Log-probabilities come from the raw logits; margins are the distance of the two best scores after the processors,
    which is what the greedy choice sees.
    """
    input_ids = torch.tensor([hard_prompt + prompt])
    with torch.no_grad():
        result = model.generate(
            input_ids=input_ids,
            attention_mask=torch.ones_like(input_ids),
            do_sample=False,
            max_new_tokens=request.max_new_tokens,
            eos_token_id=eos,
            pad_token_id=eos,
            return_dict_in_generate=True,
            output_logits=True,
            output_scores=True,
            **request.arguments(),
        )
    tokens = result.sequences[0, input_ids.shape[1] :].tolist()
    logits, scores = torch.cat(result.logits), torch.cat(result.scores)
    if scores.argmax(-1).tolist() != tokens:
        raise RuntimeError("generate() did not choose the best score")
    best = scores.topk(2).values
    first = logits[0].double().log_softmax(-1)
    top = sorted(range(len(first)), key=lambda token: (-first[token].item(), token))[:TOP]
    return {
        **({"hard_prompt_ids": hard_prompt} if hard_prompt else {}),
        "prompt_ids": prompt,
        "max_new_tokens": request.max_new_tokens,
        **request.processors(),
        "token_ids": tokens,
        "finish_reason": "eos" if tokens[-1] == eos else "length",
        "token_logprobs": [seven_digits(value) for value in greedy_token_logprobs(logits, tokens).tolist()],
        "margins": [seven_digits(value) for value in (best[:, 0] - best[:, 1]).tolist()],
        "top_logprobs": [[token, seven_digits(first[token].item())] for token in top],
    }
