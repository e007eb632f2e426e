#!/usr/bin/env python3
"""Write a trained base as the folder that ships: F16 weights and GPT-2 tokenizer files.

train_base.py leaves fp32 weights and tokenizer.json only. Servers that read GPT-2's own vocab.json and merges.txt
get these too, cut from the same tokenizer.
"""

import argparse
import json
from pathlib import Path

import torch
from transformers import AutoTokenizer, GPT2LMHeadModel

from tasks import BASE_DIR, END_OF_TEXT

ROUND_TRIP_TEXTS = [
    "Please come back on the 25th of October, 2029.\n=> 2029-10-25<|endoftext|>",
    "name : Café Brazil | price : £20\n=>",
    " two  spaces\tand 'tis",
]


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("source", type=Path, help="folder written by train_base.py")
    parser.add_argument("target", type=Path, nargs="?", default=BASE_DIR)
    return parser.parse_args()


def export_weights(source, target):
    model = GPT2LMHeadModel.from_pretrained(source, dtype=torch.float32)
    model.half().save_pretrained(target)


def export_tokenizer(source, target):
    tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary = dict(tokenizer["model"]["vocab"])
    vocabulary.update((token["content"], token["id"]) for token in tokenizer["added_tokens"])
    # Older tokenizers write a merge as "a b", newer ones as ["a", "b"].
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    config = {
        "tokenizer_class": "GPT2Tokenizer",
        "add_prefix_space": False,
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
        "model_max_length": json.loads((source / "config.json").read_text())["n_positions"],
        "clean_up_tokenization_spaces": False,
    }
    write(target / "tokenizer.json", json.dumps(tokenizer, ensure_ascii=False))
    write(target / "vocab.json", json.dumps(vocabulary, ensure_ascii=False))
    write(target / "merges.txt", "\n".join(["#version: 0.2", *merges]) + "\n")
    write(target / "tokenizer_config.json", json.dumps(config, indent=1))


def write(path, text):
    path.write_text(text, encoding="utf-8")


def check_round_trip(source, target):
    trained, exported = AutoTokenizer.from_pretrained(source), AutoTokenizer.from_pretrained(target)
    for text in ROUND_TRIP_TEXTS:
        ids = exported(text)["input_ids"]
        if ids != trained(text)["input_ids"] or exported.decode(ids) != text:
            raise SystemExit(f"the exported tokenizer differs on {text!r}")


def main():
    args = parse_args()
    args.target.mkdir(parents=True, exist_ok=True)
    export_weights(args.source, args.target)
    export_tokenizer(args.source, args.target)
    check_round_trip(args.source, args.target)
    for path in sorted(args.target.iterdir()):
        print(f"{path.name:24} {path.stat().st_size:>10} bytes")


if __name__ == "__main__":
    main()
