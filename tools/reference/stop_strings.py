"""The step at which transformers' StopStringCriteria ends a generation."""

from pathlib import Path

import torch
from transformers import AutoTokenizer
from transformers.generation.stopping_criteria import StopStringCriteria

from common import write_json

# (prompt, pieces that are generated one after another, stop strings)
SCENARIOS = [
    ("Say", [" hello", " world", ".", " More"], ["."]),
    ("Say", [" hello", " world", ".", " More"], ["hello world"]),
    ("Say", [" hello", " world", ".", " More"], ["lo wor"]),
    ("Say", [" hello", " world", ".", " More"], ["absent"]),
    ("Say", [" hello", " world", ".", " More"], ["world", "hello"]),
    ("Say", [" hello", " world", ".", " More"], ["o"]),
    ("Say", [" hello", " world", ".", " More"], ["y hello"]),
    ("Say.", [" hello", " world"], ["."]),
    ("Say", ["\n", "\n", "next", "\n\n", "end"], ["\n\n"]),
    ("Say", [" caf\u00e9", " au", " lait"], ["\u00e9"]),
    ("Say", [" \u65e5\u672c\u8a9e", " text"], ["\u672c"]),
    ("Say", [" \U0001f600", "\U0001f602", "!"], ["\U0001f602"]),
    ("Say", [" aab", " aaab", " end"], ["aaab"]),
    ("Say", [" Stop", " stop", " STOP"], ["stop"]),
    ("Say", [" one", "###", " two"], ["###", " one#"]),
    ("Say", [" one", "<|endoftext|>", " two"], ["<|endoftext|>"]),
    ("Say", [" one", "<|endoftext|>", " two"], [" two", "one<|endoftext|>"]),
    ("Say", [" one", "<|endoftext|>", " two", " three"], ["one<|endoftext|> two"]),
    ("Say", [" one", "<|endoftext|>", " two", " three"], ["e<|endoftext|> t"]),
    ("Say", [" one", "<|endoftext|>", "<|endoftext|>", " two"], ["<|endoftext|><|endoftext|>"]),
    ("Say", [" one", "<|endoftext|>", " two"], ["endof"]),
    ("Say", [" one", "<|endoftext|>", " two"], ["text|> t"]),
    ("Say", [" one", "<|", "endo", " two"], ["<|endoftext|>"]),
    ("Say", [" one", " two"], ["one two<|endoftext|>"]),
    ("Say", [" ", " ", " ", "x"], ["   "]),
    ("Say", [" the restaurant near the river"], ["rest", "river"]),
]


def write_stop_strings(tokenizer_folder: Path, path: Path) -> int:
    """Write stop-strings.json and return the number of cases."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    cases = []
    for prompt, pieces, stop in SCENARIOS:
        prompt_ids = tokenizer(prompt)["input_ids"]
        token_ids = [token for piece in pieces for token in tokenizer(piece)["input_ids"]]
        criteria = StopStringCriteria(tokenizer, stop)
        stops = [
            bool(criteria(torch.tensor([prompt_ids + token_ids[:count]]), None))
            for count in range(1, len(token_ids) + 1)
        ]
        cases.append(
            {
                "prompt_ids": prompt_ids,
                "token_ids": token_ids,
                "tokens": [tokenizer.decode([token]) for token in token_ids],
                "stop": stop,
                "stops_after": stops.index(True) + 1 if True in stops else None,
            }
        )
    write_json(path, {"cases": cases})
    return len(cases)
