#!/usr/bin/env python3
"""Train PEFT prefix-tuning adapters, one per task, on the frozen base.

The loss is on the target only. The prompt is `<input>\\n=>` with no word about the task: the prefix carries it.
Each adapter is written to OUT/<task>/ as PEFT writes it, with train.json beside it.
"""

import argparse
import json
import random
import time
from pathlib import Path

import torch
from peft import PrefixTuningConfig, TaskType, get_peft_model
from transformers import AutoTokenizer, GPT2LMHeadModel

from tasks import BASE_DIR, BASE_NAME, load

BATCHES_PER_POOL = 16  # batches are cut from length-sorted pools of this many, to waste little padding
LOWEST_LR_SHARE = 0.02
IGNORED_LABEL = -100


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("tasks", nargs="+")
    parser.add_argument("--corpora", type=Path, required=True)
    parser.add_argument("--base", type=Path, default=BASE_DIR)
    parser.add_argument("--out", type=Path, required=True, help="folder that gets one folder per task")
    parser.add_argument("--minutes", type=float, default=3.0, help="length of the schedule in wall time")
    parser.add_argument("--steps", type=int, default=0, help="length in steps; takes precedence over --minutes")
    parser.add_argument("--virtual-tokens", type=int, default=10)
    parser.add_argument("--hidden", type=int, default=512, help="width of the reparameterisation MLP")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--warmup", type=int, default=20, help="steps")
    parser.add_argument("--max-length", type=int, default=200, help="rows of this many tokens or more are left out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def encode_rows(rows, tokenizer, max_length):
    """[(prompt ids, answer ids ending in end-of-text)], too long rows left out."""
    prompts = tokenizer([row["prompt"] for row in rows])["input_ids"]
    answers = tokenizer([" " + row["target"].strip() for row in rows])["input_ids"]
    return [
        (prompt, answer + [tokenizer.eos_token_id])
        for prompt, answer in zip(prompts, answers)
        if len(prompt) + len(answer) < max_length
    ]


def endless_batches(examples, batch_size, rng):
    """Shuffled batches of examples of similar length, epoch after epoch."""
    pool_size = min(BATCHES_PER_POOL * batch_size, len(examples))
    while True:
        rng.shuffle(examples)
        for start in range(0, len(examples) - pool_size + 1, pool_size):
            pool = sorted(examples[start : start + pool_size], key=lambda pair: len(pair[0]) + len(pair[1]))
            batches = [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
            rng.shuffle(batches)
            yield from batches


def collate(batch, pad_id):
    """Right-padded input ids, attention mask and labels, each [b, longest]; the prompt has no labels."""
    longest = max(len(prompt) + len(answer) for prompt, answer in batch)
    input_ids = torch.full((len(batch), longest), pad_id)
    attention_mask = torch.zeros(len(batch), longest, dtype=torch.long)
    labels = torch.full((len(batch), longest), IGNORED_LABEL)
    for i, (prompt, answer) in enumerate(batch):
        end = len(prompt) + len(answer)
        input_ids[i, :end] = torch.tensor(prompt + answer)
        attention_mask[i, :end] = 1
        labels[i, len(prompt) : end] = torch.tensor(answer)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def train_task(task, args, tokenizer):
    torch.manual_seed(args.seed)
    rng = random.Random(args.seed)
    base = GPT2LMHeadModel.from_pretrained(args.base, dtype=torch.float32)
    config = PrefixTuningConfig(
        task_type=TaskType.CAUSAL_LM,
        num_virtual_tokens=args.virtual_tokens,
        prefix_projection=True,
        encoder_hidden_size=args.hidden,
    )
    model = get_peft_model(base, config)
    model.eval()  # no dropout anywhere
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=args.lr, weight_decay=0.0)
    examples = encode_rows(load(args.corpora, task, "train"), tokenizer, args.max_length)

    started = time.time()
    step, rows_seen, mean_loss = 0, 0, None
    for batch in endless_batches(examples, args.batch, rng):
        elapsed = time.time() - started
        progress = step / args.steps if args.steps else elapsed / 60 / args.minutes
        if progress >= 1:
            break
        lr = args.lr * min(1, (step + 1) / args.warmup) * max(LOWEST_LR_SHARE, 1 - progress)
        for group in optimizer.param_groups:
            group["lr"] = lr
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(**collate(batch, tokenizer.eos_token_id)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()

        step += 1
        rows_seen += len(batch)
        mean_loss = loss.item() if mean_loss is None else 0.95 * mean_loss + 0.05 * loss.item()
        if step in (1, 10, 30) or step % 100 == 0:
            print(f"{task} step {step} rows {rows_seen} loss {mean_loss:.3f} {elapsed / 60:.1f} min", flush=True)

    save(model, args.out / task, {
        "task": task,
        "steps": step,
        "rows_seen": rows_seen,
        "seconds": round(time.time() - started),
        "loss": mean_loss,
        "P": args.virtual_tokens,
        "lr": args.lr,
        "hidden": args.hidden,
        "batch": args.batch,
        "threads": args.threads,
    })
    print(f"{task} done: {step} steps, {rows_seen} rows, loss {mean_loss:.3f}", flush=True)


def save(model, folder, record):
    """The adapter as PEFT writes it, but with the base's name instead of this machine's path, and train.json."""
    model.peft_config["default"].base_model_name_or_path = BASE_NAME
    model.save_pretrained(folder, save_embedding_layers=False)  # they are frozen; also keeps PEFT off the network
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty model card; prefixes/README.md is ours
    (folder / "train.json").write_text(json.dumps(record, indent=1) + "\n")


def main():
    args = parse_args()
    torch.set_num_threads(args.threads)
    tokenizer = AutoTokenizer.from_pretrained(args.base)
    for task in args.tasks:
        train_task(task, args, tokenizer)


if __name__ == "__main__":
    main()
