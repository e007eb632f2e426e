#!/usr/bin/env python3
"""Train a small GPT-2 (HF GPT2LMHeadModel) from scratch on task pairs and general text.

On CPU: data parallel over single-threaded processes with one synchronisation a step, which on a shared machine beats
one process of several threads (a thread that loses its core stalls every matrix product, not only the step).
On GPU: one process. Larger models: --layers, --dim, --heads, --vocab, --windows, --batch.
The result in --out is fp32; export_base.py makes the folder that ships.
"""

import argparse
import json
import math
import os
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from tokenizers import Tokenizer
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from pretraining_data import build_windows
from tasks import END_OF_TEXT

SHARE_AT_POSITION_ZERO = 0.7  # of steps; the others shift the window to a random position
LOWEST_LR_SHARE = 0.02
MAX_GRADIENT_NORM = 1.0
DATA_ARGUMENTS = ["vocab", "T", "windows", "p_text", "p_tagged", "input_weight", "seed"]


def parse_args():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--corpora", type=Path, required=True)
    add("--out", type=Path, required=True, help="folder of the fp32 model; the windows are cached beside it")
    add("--device", default="auto", choices=["auto", "cpu", "cuda"])
    add("--minutes", type=float, default=29, help="length of the schedule in wall time")
    add("--steps", type=int, default=0, help="length in steps; takes precedence over --minutes")
    add("--vocab", type=int, default=4096)
    add("--layers", type=int, default=4)
    add("--dim", type=int, default=256)
    add("--heads", type=int, default=8)
    add("--positions", type=int, default=512)
    add("--T", type=int, default=256, help="tokens a window")
    add("--batch", type=int, default=24, help="windows a step, all processes together")
    add("--windows", type=int, default=70000)
    add("--p-text", type=float, default=0.28, help="share of text windows")
    add("--p-tagged", type=float, default=0.47, help="share of tagged windows; the rest are untagged")
    add("--input-weight", type=float, default=0.3, help="loss weight of the tokens of an input")
    add("--lr", type=float, default=3e-3)
    add("--warmup", type=int, default=40, help="steps")
    add("--seed", type=int, default=0)
    add("--processes", type=int, default=0, help="default: 2 on CPU, 1 on GPU")
    add("--port", type=int, default=29517, help="for the processes to meet on 127.0.0.1")
    add("--no-compile", action="store_true", help="skip torch.compile (worth it for a few steps only)")
    args = parser.parse_args()
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    args.processes = args.processes or (2 if args.device == "cpu" else 1)
    if args.device == "cuda" and args.processes > 1:
        parser.error("--processes: one process on a GPU")
    if args.batch % args.processes:
        parser.error("--batch must be a multiple of --processes")
    return args


def beside(out, suffix):
    return out.with_name(out.name + suffix)


def prepare_windows(args):
    """Build the windows, unless the cache holds those of the same arguments."""
    cache = beside(args.out, "_windows.pt")
    wanted = {name: getattr(args, name) for name in DATA_ARGUMENTS}
    if cache.exists() and torch.load(cache)["made_from"] == wanted:
        return
    tokenizer, ids, weights = build_windows(args)
    cache.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"made_from": wanted, "tokenizer": tokenizer.to_str(), "ids": ids, "weights": weights}, cache)


def make_model(args, end_of_text):
    config = GPT2Config(
        vocab_size=args.vocab,
        n_positions=args.positions,
        n_embd=args.dim,
        n_layer=args.layers,
        n_head=args.heads,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
    )
    return GPT2LMHeadModel(config).to(args.device)


def make_optimizers(model, lr):
    """Muon for the matrices of the blocks, AdamW for embeddings, biases and norms."""
    named = list(model.named_parameters())
    matrices = [parameter for name, parameter in named if ".h." in name and parameter.ndim == 2]
    others = [parameter for name, parameter in named if not (".h." in name and parameter.ndim == 2)]
    return [
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.02, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def make_loss(model, args):
    """loss(ids [b, T], weights [b, T], positions [T]): mean cross-entropy of the next token, weighted."""
    own_positions = torch.arange(args.T, device=args.device)
    device_type = torch.device(args.device).type

    def loss(ids, weights, positions):
        with torch.autocast(device_type, dtype=torch.bfloat16):
            body = model.transformer
            # GPT2Model adds wpe(0..T-1) itself; with this sum it uses `positions` instead.
            embeddings = body.wte(ids) + body.wpe(positions) - body.wpe(own_positions)
            logits = model(inputs_embeds=embeddings, use_cache=False).logits
        targets = ids[:, 1:].reshape(-1)
        predictions = logits[:, :-1].reshape(-1, args.vocab).float()
        losses = F.cross_entropy(predictions, targets, reduction="none")
        target_weights = weights[:, 1:].reshape(-1)
        return (losses * target_weights).sum() / target_weights.sum()

    return loss if args.no_compile else torch.compile(loss)


def average_over_processes(parameters, loss, progress, processes):
    """Mean gradients (as one flat tensor), loss and progress of all processes, so that all stop at the same step."""
    tail = torch.tensor([loss.item(), progress], device=loss.device)
    flat = torch.cat([parameter.grad.reshape(-1) for parameter in parameters] + [tail])
    if processes > 1:
        dist.all_reduce(flat)
        flat /= processes
    return flat[:-2], flat[-2].item(), flat[-1].item()


def set_clipped_gradients(parameters, flat):
    flat = flat * min(1.0, MAX_GRADIENT_NORM / (flat.norm().item() + 1e-6))
    start = 0
    for parameter in parameters:
        parameter.grad.copy_(flat[start : start + parameter.numel()].view_as(parameter))
        start += parameter.numel()


def learning_rate(args, step, progress):
    """Linear warm-up, then cosine."""
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return args.lr * min(1, (step + 1) / args.warmup) * max(LOWEST_LR_SHARE, cosine)


def train(rank, args):
    if args.device == "cpu":
        torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    if args.processes > 1:
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(args.port))
        dist.init_process_group("gloo", rank=rank, world_size=args.processes)

    def log(message):
        if rank == 0:
            print(message, flush=True)

    data = torch.load(beside(args.out, "_windows.pt"))
    all_ids, all_weights = data["ids"].to(args.device), data["weights"].to(args.device)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(data["tokenizer"]),
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        unk_token=END_OF_TEXT,
        model_max_length=args.positions,
    )
    model = make_model(args, tokenizer.eos_token_id)
    parameters = list(model.parameters())
    optimizers = make_optimizers(model, args.lr)
    loss_of = make_loss(model, args)
    log(f"{len(all_ids)} windows, {model.num_parameters() / 1e6:.2f}M parameters, device {args.device}")

    per_process = args.batch // args.processes
    positions = torch.arange(args.T, device=args.device)
    offsets = torch.Generator().manual_seed(args.seed)  # the same in every process

    loss_of(all_ids[:per_process].long(), all_weights[:per_process], positions).backward()
    model.zero_grad()  # that call only compiled, before the clock starts
    if args.processes > 1:
        dist.barrier()

    started = time.time()
    step, mean_loss = 0, None
    while True:
        elapsed = time.time() - started
        first = (step * args.processes + rank) * per_process % (len(all_ids) - per_process)
        chosen = slice(first, first + per_process)
        loss = loss_of(all_ids[chosen].long(), all_weights[chosen], positions + random_offset(args, offsets))
        loss.backward()

        progress = step / args.steps if args.steps else elapsed / 60 / args.minutes
        gradients, loss_value, progress = average_over_processes(parameters, loss, progress, args.processes)
        if progress >= 1:
            break
        set_clipped_gradients(parameters, gradients)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(args, step, progress)
            optimizer.step()
        model.zero_grad(set_to_none=True)

        step += 1
        mean_loss = loss_value if mean_loss is None else 0.97 * mean_loss + 0.03 * loss_value
        if step % 25 == 0:
            tokens = step * args.batch * args.T
            rate = tokens / (time.time() - started)
            log(f"step {step} tokens {tokens / 1e6:.2f}M loss {mean_loss:.3f} {rate:.0f} tok/s")

    if rank == 0:
        save(args, model, tokenizer, {"steps": step, "seconds": round(time.time() - started), "loss": mean_loss})
    if args.processes > 1:
        dist.destroy_process_group()


def random_offset(args, generator):
    """Position of a window's first token: mostly 0, else anywhere, so that later positions are trained too."""
    if torch.rand((), generator=generator) < SHARE_AT_POSITION_ZERO:
        return 0
    return int(torch.randint(0, args.positions - args.T + 1, (), generator=generator))


def save(args, model, tokenizer, record):
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    record["tokens"] = record["steps"] * args.batch * args.T
    record["args"] = {name: value for name, value in vars(args).items() if not isinstance(value, Path)}
    beside(args.out, "_train.json").write_text(json.dumps(record, indent=1) + "\n")


def main():
    args = parse_args()
    prepare_windows(args)
    if args.processes > 1:
        mp.start_processes(train, (args,), nprocs=args.processes, start_method="spawn")
    else:
        train(0, args)


if __name__ == "__main__":
    main()
