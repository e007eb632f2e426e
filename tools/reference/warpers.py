"""What transformers' logits processors and warpers leave of fixed logits, in the order of generate()."""

import itertools
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.generation.logits_process import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    TopPLogitsWarper,
)

from common import float32_digits, random_ids, write_json

BOUNDARY = 2e-6


def write_warpers(path: Path) -> int:
    """Write warpers.json and return the number of cases."""
    rows = _logits_rows()
    models = {size: tiny_model(size) for size in {len(row) for row in rows}}
    by_size = [[index for index, row in enumerate(rows) if len(row) == size] for size in sorted(models)]
    cases = []
    for number, parameters in enumerate(_parameters()):
        for group in by_size:
            index = group[number % len(group)]
            cases.append(_case(models[len(rows[index])], index, rows[index], parameters, number))
    cases += [
        _case(models[len(row)], index, row, parameters, index)
        for index, row in enumerate(rows)
        for parameters in ({"top_k": 3}, {"top_p": 0.5}, {"min_p": 0.2}, {"temperature": 0.5, "top_k": 4, "top_p": 0.8})
    ]
    write_json(path, {"logits": [float32_digits(row) for row in rows], "cases": cases})
    return len(cases)


def _logits_rows() -> list[torch.Tensor]:
    """Random rows of three vocabulary sizes, plus rows with ties, huge, tiny and equal values."""
    generator = torch.Generator().manual_seed(7)
    rows = []
    for size in (17, 64, 300):
        plain = torch.randn(size, generator=generator) * 3
        steep = torch.randn(size, generator=generator) * 12
        ties = torch.randint(-6, 7, (size,), generator=generator).float() / 2
        wide = torch.randn(size, generator=generator) * 10.0 ** torch.randint(-6, 4, (size,), generator=generator)
        equal = torch.full((size,), 1.25)
        if size == 300:
            equal[:9] = -1.0  # a sum of n/300 would meet 1 - top_p up to rounding
        rows += [plain, steep, ties, wide, equal]
    return rows


def _parameters() -> list[dict]:
    """Each processor alone, neutral values, and combinations; `{}` means generate()'s own sampling defaults."""
    single = [
        {},
        {"top_k": 0},
        {"top_k": 0, "temperature": 1.0, "top_p": 1.0, "repetition_penalty": 1.0, "min_new_tokens": 0},
        *({"top_k": 0, "repetition_penalty": value} for value in (0.8, 1.1, 1.3, 2.0)),
        *({"top_k": 0, "temperature": value} for value in (0.05, 0.3, 0.7, 1.5, 10.0)),
        *({"top_k": value} for value in (1, 2, 5, 16, 17, 49, 50, 51, 1000)),
        *({"top_k": 0, "top_p": value} for value in (0.0, 0.01, 0.1, 0.3, 0.6, 0.9, 0.95, 0.999)),
        *({"top_k": 0, "min_p": value} for value in (0.0, 0.001, 0.05, 0.1, 0.5, 1.0)),
        *({"top_k": 5, "min_new_tokens": value} for value in (1, 3, 4, 9)),
    ]
    combined = [
        {"temperature": temperature, "top_k": top_k, "top_p": top_p}
        for temperature, top_k, top_p in itertools.product((0.6, 1.4), (3, 20), (0.4, 0.85))
    ]
    everything = [
        {"repetition_penalty": 1.2, "temperature": 0.8, "top_k": 10},
        {"repetition_penalty": 1.2, "temperature": 0.8, "top_p": 0.9},
        {"repetition_penalty": 1.5, "top_k": 0, "min_p": 0.08},
        {"repetition_penalty": 1.5, "min_new_tokens": 6, "top_k": 4},
        {"temperature": 2.0, "top_k": 0, "min_p": 0.1},
        {"temperature": 0.5, "top_k": 30, "min_p": 0.02},
        {"temperature": 1.7, "top_p": 0.92},
        {"top_k": 12, "top_p": 0.7, "min_p": 0.05},
        {"temperature": 1.2, "top_k": 0, "top_p": 0.8, "min_p": 0.3},
        {"min_new_tokens": 8, "temperature": 0.7, "top_k": 6, "top_p": 0.95},
        {"repetition_penalty": 1.1, "min_new_tokens": 8, "temperature": 1.3, "top_k": 25, "top_p": 0.9, "min_p": 0.04},
        {"repetition_penalty": 0.9, "min_new_tokens": 2, "temperature": 0.9, "top_k": 8, "top_p": 0.6, "min_p": 0.1},
    ]
    return single + combined + everything


def tiny_model(vocab_size: int) -> GPT2LMHeadModel:
    """A model of this vocabulary: only its processor list is used."""
    eos = vocab_size - 1
    config = GPT2Config(
        vocab_size=vocab_size, n_positions=32, n_embd=8, n_layer=1, n_head=1, bos_token_id=eos, eos_token_id=eos
    )
    return GPT2LMHeadModel(config)


def _case(model: GPT2LMHeadModel, index: int, logits: torch.Tensor, parameters: dict, number: int) -> dict:
    """Run generate()'s own list of processors on one row."""
    vocab_size = len(logits)
    generator = torch.Generator().manual_seed(1000 + number)
    prompt = random_ids(generator, vocab_size, 1 + number % 6)
    generated = random_ids(generator, vocab_size - 1, number % 5)
    input_ids = torch.tensor([prompt + generated])

    config, _ = model._prepare_generation_config(None, do_sample=True, max_new_tokens=16, **parameters)
    model._prepare_special_tokens(config, kwargs_has_attention_mask=True, device=torch.device("cpu"))
    processors = model._get_logits_processor(config, input_ids_seq_length=len(prompt), device="cpu")
    scores, tied = _process(processors, input_ids, logits)

    kept = (scores > -torch.inf).nonzero()[:, 0].tolist()
    probabilities = dict(zip(kept, float32_digits(scores.softmax(-1)[kept])))
    tied_kept = [token for token in kept if token in tied]
    return {
        "logits": index,
        "prompt_ids": prompt,
        "generated_ids": generated,
        "parameters": parameters,
        "survivors": [[token, probabilities[token]] for token in kept if token not in tied],
        **(
            {"tied": {"ids": tied, "survive": len(tied_kept), "probability": probabilities[tied_kept[0]]}}
            if tied_kept
            else {}
        ),
    }


def _process(
    processors: LogitsProcessorList, input_ids: torch.Tensor, logits: torch.Tensor
) -> tuple[torch.Tensor, list[int]]:
    """Apply the processors to one row; also return the equal scores of which top_p kept some and dropped others.

    torch.sort is not stable, so which of those survive depends on the processor that runs it; how many does not.
    """
    scores, tied = logits.clone()[None], []
    for processor in processors:
        _refuse_rounding_dependence(processor, scores)
        before, scores = scores, processor(input_ids, scores)
        if isinstance(processor, TopPLogitsWarper):
            weakest = before[scores > -torch.inf].min()
            group = before == weakest
            if (group & (scores == -torch.inf)).any():
                tied = group[0].nonzero()[:, 0].tolist()
    return scores[0], tied


def _refuse_rounding_dependence(processor: LogitsProcessor, scores: torch.Tensor) -> None:
    """Fail if a float32 rounding error could move a token across the top_p or min_p boundary.

    Sums that are exact in binary, as among 64 equal logits, may lie on the boundary.
    """
    probabilities = scores.double().softmax(-1)
    if isinstance(processor, TopPLogitsWarper):
        best_is_always_kept = slice(None, -1)
        distance = probabilities.sort().values.cumsum(-1)[:, best_is_always_kept] - (1 - processor.top_p)
    elif isinstance(processor, MinPLogitsWarper) and processor.min_p > 0:
        distance = probabilities / probabilities.max() / processor.min_p - 1
    else:
        return
    if ((distance != 0) & (distance.abs() < BOUNDARY)).any():
        raise RuntimeError(f"a boundary is too close for float32: {processor}")
