#!/usr/bin/env python3
"""Rewrite the generated blocks of models/demo/README.md and prefixes/README.md.

A block lies between `<!-- NAME: begin -->` and `<!-- NAME: end -->`. `scores` comes from models/demo/eval.json,
`showcase` from prefixes/showcase.json, `training` from the train.json files. With --check nothing is written and a
stale block is an error.
"""

import argparse
import json
import re
import sys

from tasks import BASE_DIR, PREFIXES_DIR

METRIC_NAMES = {
    "bleu": "BLEU",
    "exact": "exact",
    "letters_kept": "letters kept",
    "letters_and_case": "letters and case",
    "echo": "echo",
}


def read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def markdown_table(header, rows):
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    lines = [header, ["---"] * len(header), *escaped]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def describe(scores):
    decimals = {metric: 2 if metric == "bleu" else 1 for metric in scores}
    return ", ".join(f"{METRIC_NAMES[metric]} {value:.{decimals[metric]}f}" for metric, value in scores.items())


def scores_table():
    record = read_json(BASE_DIR / "eval.json")
    rows = [
        [
            f"`{task}`" + (" (new to the base)" if result["held_out_of_pretraining"] else ""),
            str(result["rows"]),
            describe(result["without_prefix"]),
            describe(result["with_prefix"]),
        ]
        for task, result in record["tasks"].items()
    ]
    return markdown_table(["task", f"{record['split']} rows", "without prefix", "with prefix"], rows)


def training_table():
    records = [read_json(path) for path in sorted(PREFIXES_DIR.glob("*/train.json"))]
    rows = [
        [f"`{r['task']}`", "`prefixd train`" if "command" in r else "`train_prefix.py`", str(r["steps"]), str(r["rows_seen"])]
        for r in records
    ]
    return markdown_table(["prefix", "trained by", "steps", "rows seen"], rows)


def showcase_tables():
    blocks = []
    for example in read_json(PREFIXES_DIR / "showcase.json"):
        rows = [
            ["none" if name == "base" else f"`{name}`", f"`{answer}`"] for name, answer in example["answers"].items()
        ]
        blocks.append(f"```\n{example['prompt']}\n```\n\n" + markdown_table(["prefix", "greedy answer"], rows))
    return "\n\n".join(blocks)


BLOCKS = {
    BASE_DIR / "README.md": {"scores": scores_table},
    PREFIXES_DIR / "README.md": {"scores": scores_table, "training": training_table, "showcase": showcase_tables},
}


def replace_block(text, name, content, path):
    pattern = re.compile(rf"(<!-- {name}: begin -->\n).*?(<!-- {name}: end -->)", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise SystemExit(f"{path}: expected one block named {name}")
    return pattern.sub(lambda match: f"{match[1]}\n{content}\n\n{match[2]}", text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for path, blocks in BLOCKS.items():
        old = new = path.read_text(encoding="utf-8")
        for name, render in blocks.items():
            new = replace_block(new, name, render(), path)
        if new != old:
            stale.append(path)
            if not check:
                path.write_text(new, encoding="utf-8")
    if check and stale:
        sys.exit("stale, run tools/demo-model/table.py: " + ", ".join(map(str, stale)))


if __name__ == "__main__":
    main()
