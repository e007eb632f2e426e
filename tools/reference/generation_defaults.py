"""Answers of the demo model, and of its prefixes, with defaults in generation_config.json: what transformers' and PEFT's `generate()` make of the file."""

import json
import shutil
import tempfile
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoTokenizer, GPT2LMHeadModel

from common import DEFAULT_TOKENIZER, REPOSITORY, seven_digits, write_json

EOS = 4095
HOTEL = "name : The Vaults | Type : pub | price : more than £ 30 | customer rating : 5 out of 5 | near : Café Adriatic\n=>"
MILL = "name : The Mill | Type : restaurant | food : Italian | price : cheap | area : riverside\n=>"
DATE = "i want to book a flight to london on August 14th, 2024\n=>"
LONG = {"max_new_tokens": 30}

# (file, prefix, prompt, request): what the request sets comes before the file.
SCENARIOS = [
    ({"repetition_penalty": 1.5, "no_repeat_ngram_size": 2}, "e2e", HOTEL, LONG),
    ({"repetition_penalty": 1.5, "no_repeat_ngram_size": 2}, "e2e", HOTEL, {**LONG, "repetition_penalty": 1.0}),
    ({"repetition_penalty": 1.5, "no_repeat_ngram_size": 2}, "e2e", HOTEL, {**LONG, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}),
    ({"repetition_penalty": 1.3}, None, "The hotel is in the city centre and", {}),
    ({"suppress_tokens": [12, 545]}, "datenorm", DATE, LONG),
    ({"begin_suppress_tokens": [220, 349, 293]}, "e2e", MILL, LONG),
    ({"num_beams": 4, "length_penalty": 0.3}, "e2e", MILL, LONG),
    ({"num_beams": 4, "length_penalty": 2.0, "early_stopping": True, "num_return_sequences": 3}, "e2e", HOTEL, LONG),
    ({"num_beams": 3, "early_stopping": "never", "repetition_penalty": 1.2, "renormalize_logits": True}, "truecase", DATE, LONG),
    ({"num_beams": 4, "length_penalty": 0.3}, "e2e", MILL, {**LONG, "num_beams": 1}),
    ({"min_new_tokens": 12}, "intent", DATE, LONG),
    ({"min_length": 40}, "intent", DATE, LONG),
    ({"min_length": 40, "min_new_tokens": 3}, "intent", DATE, LONG),
    ({"max_new_tokens": 5}, "e2e", MILL, {}),
    ({"max_length": 32}, "e2e", MILL, {}),
    ({"max_length": 32, "max_new_tokens": 7}, "e2e", MILL, {}),
    ({"max_length": 32, "forced_eos_token_id": EOS}, "e2e", MILL, {}),
    ({"forced_eos_token_id": [EOS], "max_new_tokens": 6}, "e2e", MILL, {}),
    ({"forced_eos_token_id": EOS}, "e2e", HOTEL, {"max_new_tokens": 9}),
    ({"bad_words_ids": [[12], [545, 220]]}, "datenorm", DATE, LONG),
    ({"sequence_bias": [[[12], -8.0], [[220], 3.5]]}, "datenorm", DATE, LONG),
    ({"exponential_decay_length_penalty": [3, 1.6]}, "e2e", HOTEL, LONG),
    ({"eos_token_id": [EOS, 12]}, "datenorm", DATE, LONG),
    ({"stop_strings": ["-", "<|endoftext|>"]}, "datenorm", DATE, LONG),
    ({"forced_bos_token_id": 545}, "e2e", "T", LONG),
    ({"temperature": 0.5, "top_k": 3, "top_p": 0.5, "min_p": 0.1, "typical_p": 0.5, "top_h": 0.3}, "e2e", MILL, LONG),
    ({"do_sample": True, "temperature": 0.7}, "e2e", MILL, {**LONG, "do_sample": False}),
    ({"do_sample": True, "top_k": 1}, "e2e", HOTEL, LONG),
    ({"guidance_scale": 1.0, "remove_invalid_values": False, "num_beam_groups": 1, "use_cache": True, "pad_token_id": 0}, "e2e", MILL, LONG),
]


def answer(folder: str, prefix: str | None, prompt_ids: list[int], request: dict, dtype: torch.dtype, tokenizer) -> tuple[list[list[int]], list[float]]:
    """New token ids of every sequence, EOS included, and their scores if a search gave them."""
    model = GPT2LMHeadModel.from_pretrained(folder, dtype=dtype).eval()
    if prefix is not None:
        model = PeftModel.from_pretrained(model, REPOSITORY / "prefixes" / prefix).eval()
    ids = torch.tensor([prompt_ids])
    out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), tokenizer=tokenizer, return_dict_in_generate=True, output_scores=True, **request)
    ends = model.generation_config.eos_token_id
    ends = set(ends if isinstance(ends, list) else [ends])
    sequences = []
    for row in out.sequences[:, len(prompt_ids) :].tolist():
        end = next((at for at, token in enumerate(row) if token in ends), len(row) - 1)
        sequences.append(row[: end + 1])
    scores = out.get("sequences_scores")
    return sequences, [] if scores is None else [seven_digits(score) for score in scores.tolist()]


def write_generation_defaults(path: Path) -> int:
    """Write generation-defaults.json and return the number of cases. A case that float64 answers otherwise is an error."""
    tokenizer = AutoTokenizer.from_pretrained(DEFAULT_TOKENIZER)
    cases = []
    for file, prefix, prompt, request in SCENARIOS:
        config = {"bos_token_id": EOS, "eos_token_id": EOS, "pad_token_id": 0, **file}
        with tempfile.TemporaryDirectory() as folder:
            for name in ("config.json", "model.safetensors"):
                shutil.copy(DEFAULT_TOKENIZER / name, folder)
            (Path(folder) / "generation_config.json").write_text(json.dumps(config), encoding="utf-8")
            prompt_ids = tokenizer(prompt)["input_ids"]
            sequences, scores = answer(folder, prefix, prompt_ids, request, torch.float32, tokenizer)
            exact, _ = answer(folder, prefix, prompt_ids, request, torch.float64, tokenizer)
        if sequences != exact:
            raise ValueError(f"{file}: float32 and float64 differ")
        cases.append(
            {
                "generation_config": config,
                "prefix": prefix,
                "prompt": prompt,
                "request": request,
                "token_ids": sequences,
                **({"scores": scores} if scores else {}),
            }
        )
    write_json(path, {"cases": cases})
    return len(cases)
