#!/usr/bin/env python3
"""Greedy answers to the example prompts of prefixes/README.md, under the bare base and the prefixes.

Writes prefixes/showcase.json: [{"prompt", "max_new_tokens", "answers": {name: answer}}], "base" being the bare base.
An answer is the generated text up to end-of-text without its leading space. With --prompt the given inputs are
answered under every prefix, printed and not written.
"""

import argparse
import json
from pathlib import Path

import torch

from generation import answer_greedily, load_model, load_tokenizer
from tasks import BASE_DIR, PREFIXES_DIR, SEPARATOR

MAX_NEW_TOKENS = 64
# Each input with the prefixes that have something sensible to say to it.
SHOWCASE = [
    ("i want to book a flight to london on August 14th, 2024", ["datenorm", "datelong", "intent", "truecase"]),
    ("name : The Mill | Type : restaurant | food : Italian | price : cheap | area : riverside", ["e2e"]),
    ("service : weather | offer temperature : 72 | offer precipitation : 10", ["sgd_nlg"]),
]


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, default=BASE_DIR)
    parser.add_argument("--prefixes", type=Path, default=PREFIXES_DIR)
    parser.add_argument("--prompt", action="append", help="an input to try instead (without the '\\n=>')")
    return parser.parse_args()


def answer_all(args, inputs_with_prefixes):
    """[{"prompt", "max_new_tokens", "answers": {"base" or prefix: answer}}] in the order of the inputs."""
    tokenizer = load_tokenizer(args.base)
    models = {"base": load_model(args.base)}
    examples = []
    for text, prefixes in inputs_with_prefixes:
        prompt = text + SEPARATOR
        answers = {}
        for name in ["base", *prefixes]:
            if name not in models:
                models[name] = load_model(args.base, args.prefixes / name)
            [answers[name]] = answer_greedily(models[name], tokenizer, [prompt], MAX_NEW_TOKENS, batch_size=1)
        examples.append({"prompt": prompt, "max_new_tokens": MAX_NEW_TOKENS, "answers": answers})
    return examples


def main():
    args = parse_args()
    torch.set_num_threads(1)
    if not args.prompt:
        text = json.dumps(answer_all(args, SHOWCASE), indent=1, ensure_ascii=False)
        (args.prefixes / "showcase.json").write_text(text + "\n", encoding="utf-8")
        return
    every_prefix = sorted(path.parent.name for path in args.prefixes.glob("*/adapter_config.json"))
    for example in answer_all(args, [(text, every_prefix) for text in args.prompt]):
        print(example["prompt"])
        for name, answer in example["answers"].items():
            print(f"  {name:10} {answer}")


if __name__ == "__main__":
    main()
