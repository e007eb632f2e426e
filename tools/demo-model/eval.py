#!/usr/bin/env python3
"""Score every prefix on held-out rows, with the prefix and with the bare base on the same prompts.

Writes eval.json (scores, decoding, the run's arguments) and samples.md (the first rows of each task's sample).
Decoding is greedy. All scores are percentages except BLEU, which is sacrebleu's corpus BLEU against all references.

  exact             the answer equals a reference
  letters_kept      truecase: letters and digits equal the reference's, ignoring case
  letters_and_case  truecase: letters and digits equal the reference's
  echo              the answer equals the input (what the bare base tends to do)
"""

import argparse
import json
import random
import time
from pathlib import Path

import sacrebleu
import torch

from generation import answer_greedily, load_model, load_tokenizer
from tasks import BASE_DIR, HELD_OUT_OF_PRETRAINING, PREFIXES_DIR, PRIMARY_METRIC, load, max_answer_tokens

MAX_PROMPT_TOKENS = 300  # longer prompts are not sampled; with the answer they would leave the trained positions
SAMPLES_PER_TASK = 5


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--base", type=Path, default=BASE_DIR)
    parser.add_argument("--prefixes", type=Path, default=PREFIXES_DIR)
    parser.add_argument("--out", type=Path, default=BASE_DIR, help="folder for eval.json and samples.md")
    parser.add_argument("--tasks", nargs="*", help="default: every folder under --prefixes")
    parser.add_argument("--split", default="test", choices=["train", "dev", "test"])
    parser.add_argument("--rows", type=int, default=1000, help="rows a task (a seeded sample)")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def percent(hits, total):
    return round(100 * hits / total, 2)


def letters(text):
    return "".join(char for char in text if char.isalnum())


def corpus_bleu(answers, references):
    """Corpus BLEU with a varying number of references a row (sacrebleu wants columns, gaps as None)."""
    most = max(map(len, references))
    columns = [[refs[j] if j < len(refs) else None for refs in references] for j in range(most)]
    return round(sacrebleu.corpus_bleu(answers, columns).score, 2)


def score(task, answers, rows):
    references = [row["references"] for row in rows]
    total = len(rows)
    scores = {}
    if PRIMARY_METRIC[task] == "bleu":
        scores["bleu"] = corpus_bleu(answers, references)
    scores["exact"] = percent(sum(a in refs for a, refs in zip(answers, references)), total)
    if task == "truecase":
        pairs = [(letters(answer), letters(refs[0])) for answer, refs in zip(answers, references)]
        scores["letters_kept"] = percent(sum(a.lower() == r.lower() for a, r in pairs), total)
        scores["letters_and_case"] = percent(sum(a == r for a, r in pairs), total)
    scores["echo"] = percent(sum(a == row["input"].strip() for a, row in zip(answers, rows)), total)
    return scores


def sample_rows(args, task, tokenizer):
    rows = load(args.corpora, task, args.split)
    rows = [row for row in rows if len(tokenizer(row["prompt"])["input_ids"]) < MAX_PROMPT_TOKENS]
    return random.Random(args.seed).sample(rows, min(args.rows, len(rows)))


def evaluate_task(args, task, tokenizer):
    """(scores of the task, Markdown of its samples)"""
    started = time.time()
    rows = sample_rows(args, task, tokenizer)
    prompts = [row["prompt"] for row in rows]
    limit = max_answer_tokens(task)
    without = answer_greedily(load_model(args.base), tokenizer, prompts, limit, args.batch)
    with_prefix = answer_greedily(load_model(args.base, args.prefixes / task), tokenizer, prompts, limit, args.batch)
    result = {
        "rows": len(rows),
        "held_out_of_pretraining": task in HELD_OUT_OF_PRETRAINING,
        "without_prefix": score(task, without, rows),
        "with_prefix": score(task, with_prefix, rows),
        "seconds": round(time.time() - started),
    }
    return result, samples_markdown(task, rows, without, with_prefix)


def samples_markdown(task, rows, without, with_prefix):
    lines = [f"## {task}{' (held out of pre-training)' if task in HELD_OUT_OF_PRETRAINING else ''}", ""]
    for row, bare, prefixed in list(zip(rows, without, with_prefix))[:SAMPLES_PER_TASK]:
        lines += [
            f"- input: `{row['input']}`",
            f"  - reference: `{row['references'][0]}`",
            f"  - with prefix: `{prefixed}`",
            f"  - without: `{bare}`",
        ]
    return "\n".join([*lines, ""])


def write_results(args, results, samples):
    record = {
        "split": args.split,
        "decoding": "greedy",
        "sample": f"{args.rows} rows a task at most, seed {args.seed}",
        "base": "F16 weights, evaluated in fp32 on CPU",
        "tasks": results,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "eval.json").write_text(json.dumps(record, indent=1) + "\n")
    title = f"# Samples ({args.split} rows, greedy, the first {SAMPLES_PER_TASK} of each seeded sample; not chosen)\n"
    (args.out / "samples.md").write_text("\n".join([title, *samples]))


def main():
    args = parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = load_tokenizer(args.base)
    tasks = args.tasks or sorted(path.parent.name for path in args.prefixes.glob("*/adapter_config.json"))
    results, samples = {}, []
    for task in tasks:
        results[task], markdown = evaluate_task(args, task, tokenizer)
        samples.append(markdown)
        print(task, json.dumps(results[task]), flush=True)
        write_results(args, results, samples)


if __name__ == "__main__":
    main()
