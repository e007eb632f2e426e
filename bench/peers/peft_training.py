"""Trains an adapter with PEFT and torch, step by step as told: `bench/training-scores.ts` and `training-step.ts` use it.

    python peft_training.py BASE ADAPTER THREADS

One JSON request a line, one JSON answer a line. {"rate", "clip", "rows": [[prompt length, ids], ...]}: one update of
AdamW; the answer has the loss before it, the milliseconds it took, and the most memory this process has had (VmHWM).
{"save": FOLDER} writes the adapter.
"""

import json
import re
import sys
import time
from pathlib import Path

import torch
from peft import PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file
from transformers import GPT2LMHeadModel

IGNORED_LABEL = -100


def collate(rows):
    """Right-padded input ids, attention mask and labels, each [rows, longest]; prompts have no labels."""
    shape = (len(rows), max(len(ids) for _, ids in rows))
    input_ids, attention_mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.long)
    labels = torch.full(shape, IGNORED_LABEL)
    for row, (prompt_length, ids) in enumerate(rows):
        text = torch.tensor(ids)
        input_ids[row, : len(ids)], attention_mask[row, : len(ids)] = text, 1
        labels[row, prompt_length : len(ids)] = text[prompt_length:]
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def peak_bytes():
    return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())[1])


def main():
    base_folder, adapter, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    base = GPT2LMHeadModel.from_pretrained(base_folder, dtype=torch.float32)
    # PEFT does not go on with a loaded prefix, so the values are put into a new one.
    config = PrefixTuningConfig.from_pretrained(adapter)
    config.inference_mode = False
    model = get_peft_model(base, config).eval()  # eval: no dropout of the base
    values = load_file(Path(adapter) / "adapter_model.safetensors")["prompt_embeddings"]
    with torch.no_grad():
        model.prompt_encoder["default"].embedding.weight.copy_(values)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=0.0)
    for line in sys.stdin:
        request = json.loads(line)
        if "save" in request:
            model.save_pretrained(request["save"], save_embedding_layers=False)
            print(json.dumps({}), flush=True)
            continue
        batch = collate(request["rows"])
        begin = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = request["rate"]
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, request["clip"])
        optimizer.step()
        optimizer.zero_grad()
        milliseconds = 1000 * (time.perf_counter() - begin)
        print(json.dumps({"loss": loss.item(), "ms": milliseconds, "peak_bytes": peak_bytes()}), flush=True)


main()
