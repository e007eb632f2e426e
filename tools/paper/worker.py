#!/usr/bin/env python3
"""The Python side of bench/paper: tunes, scores and checks, a JSON object a line each way (see bench/paper/worker.ts).

    tune   a method other than prefixd's own on the frozen base, and its answers to the test prompts
    score  answers against references
    check  what PEFT makes of an adapter that `prefixd train` wrote: its loss, its answers
"""

import json
import os
import random
import sys
import warnings
from pathlib import Path

THREADS = int(os.environ.get("THREADS", "1"))
os.environ["OMP_NUM_THREADS"] = str(THREADS)
os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "demo-model"))
warnings.filterwarnings("ignore")

import torch  # noqa: E402
from peft import PeftModel  # noqa: E402
from transformers import AutoTokenizer, GPT2LMHeadModel  # noqa: E402

from methods import BEAMS, Tuned, build, mean_loss, until  # noqa: E402
from scores import score  # noqa: E402
from train_prefix import collate, encode_rows, endless_batches  # noqa: E402

CLIP = 1.0
TEST_BATCH = 16


def read(path: str) -> list[dict]:
    """Lines as `prefixd train` reads them, and `references` in a test file."""
    with open(path, encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    for row in rows:
        row["target"] = row["completion"]
    return rows


def schedule(step: int, steps: int, warmup: int) -> float:
    """linearSchedule in src/training/optimizer.ts."""
    return step / warmup if step < warmup else max(0.0, (steps - step) / max(1, steps - warmup))


def tune(request: dict) -> dict:
    torch.manual_seed(request["seed"])
    tokenizer = AutoTokenizer.from_pretrained(request["base"])
    base = GPT2LMHeadModel.from_pretrained(request["base"], dtype=torch.float32)
    init = None if request["init"] is None else tokenizer(request["init"])["input_ids"]
    tuned = build(base, request["method"], request["size"], init)
    train, dev = (encode_rows(read(request[name]), tokenizer, request["maxTokens"]) for name in ("train", "dev"))
    steps, every = request["steps"], request["evaluateEvery"]
    warmup = min(20, max(1, steps // 10))
    optimizer = torch.optim.AdamW(tuned.parameters, lr=request["rate"], weight_decay=0.0)
    batches = endless_batches(train, request["batch"], random.Random(request["seed"]))
    best_loss, best = float("inf"), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = request["rate"] * schedule(step, steps, warmup)
        tuned.loss(next(batches)).backward()
        torch.nn.utils.clip_grad_norm_(tuned.parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % every == 0 or step + 1 == steps:
            held = held_out_loss(tuned, dev)
            if held < best_loss:
                best_loss, best = held, [parameter.detach().clone() for parameter in tuned.parameters]
    if not best:
        raise RuntimeError("the loss is not finite")
    with torch.no_grad():
        for parameter, value in zip(tuned.parameters, best, strict=True):
            parameter.copy_(value)
    parameters = sum(parameter.numel() for parameter in tuned.parameters)
    answers = None
    if request["test"] is not None:
        answers = answer(tuned, tokenizer, read(request["test"]), request["maxNewTokens"])
    return {"parameters": parameters, "devLoss": best_loss, "answers": answers}


def held_out_loss(tuned: Tuned, rows: list) -> float:
    """Mean over all targets."""
    total, targets = 0.0, 0
    ordered = sorted(rows, key=lambda row: len(row[0]) + len(row[1]))
    with torch.no_grad():
        for start in range(0, len(ordered), TEST_BATCH):
            batch = ordered[start : start + TEST_BATCH]
            count = sum(len(target) for _, target in batch)
            total += tuned.loss(batch).item() * count
            targets += count
    return total / targets


def answer(tuned: Tuned, tokenizer: AutoTokenizer, rows: list[dict], max_new_tokens: int) -> list[str]:
    prompts = tokenizer([row["prompt"] for row in rows])["input_ids"]
    answers = [""] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: len(prompts[i]))
    for start in range(0, len(rows), TEST_BATCH):
        chosen = order[start : start + TEST_BATCH]
        for i, ids in zip(chosen, tuned.generate([prompts[i] for i in chosen], max_new_tokens), strict=True):
            answers[i] = tokenizer.decode(ids).strip()
    return answers


def check(request: dict) -> dict:
    """One row at a time, so that nothing is padded."""
    tokenizer = AutoTokenizer.from_pretrained(request["base"])
    base = GPT2LMHeadModel.from_pretrained(request["base"], dtype=torch.float32)
    model = PeftModel.from_pretrained(base, request["adapter"]).eval()
    eos = base.config.eos_token_id
    total, targets = 0.0, 0
    texts = []
    with torch.inference_mode():
        for row in encode_rows(read(request["dev"]), tokenizer, request["maxTokens"]):
            inputs = collate([row], eos)
            labels = inputs.pop("labels")
            # A prompt's virtual tokens have logits too: only the last ones are of the row.
            logits = model(**inputs).logits[:, -labels.shape[1] :]
            total += mean_loss(logits[:, :-1], labels[:, 1:]).item() * len(row[1])
            targets += len(row[1])
        for row in read(request["test"]):
            ids = torch.tensor([tokenizer(row["prompt"])["input_ids"]])
            output = model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                num_beams=BEAMS,
                do_sample=False,
                max_new_tokens=request["maxNewTokens"],
                pad_token_id=eos,
            )
            texts.append(tokenizer.decode(until(output[0, ids.shape[1] :].tolist(), eos)).strip())
    return {"loss": total / targets, "answers": texts}


def main() -> None:
    # Libraries print; the answers alone go to standard output.
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(THREADS)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            match request["op"]:
                case "tune":
                    result = tune(request)
                case "score":
                    result = score(request["answers"], request["references"])
                case "check":
                    result = check(request)
                case other:
                    raise ValueError(f"no operation {other}")
        except Exception as error:  # noqa: BLE001: told to the bench, which goes on with the next run
            result = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        print(json.dumps(result), file=output, flush=True)


if __name__ == "__main__":
    main()
