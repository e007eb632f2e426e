"""Gradients by torch in float64, and the first steps of training as PEFT and torch do them."""

from pathlib import Path

import torch
from peft import PeftModel, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import save_file
from torch import nn
from transformers import DynamicCache, get_linear_schedule_with_warmup

from checkpoints import CHECKPOINTS, Checkpoint, checkpoint_dir, load_base
from common import random_ids, write_json

VIRTUAL_TOKENS = 3
HIDDEN = 8
# Lengths of a batch's prompts and completions: right-padded rows, one target alone, a one-token prompt.
LENGTHS = [(7, 5), (3, 2), (9, 1), (1, 6)]

CURVE_MODEL = "gelu-new-f32"
CURVE_STEPS = 12
CURVE_WARMUP = 3
CURVE_CLIP = 1.0
# Large rates, so that twelve steps change the loss visibly; the first two also meet the clipping.
CURVES = {"prefix": (0.1, 0.0), "prefix-network": (0.01, 0.01), "prompt": (0.1, 0.01)}


def write_training(output: Path) -> int:
    """Write `training/{gradients,curves}.{json,safetensors}` and `training/generations.json`; returns the number of cases."""
    folder = output / "training"
    folder.mkdir(parents=True, exist_ok=True)
    return _write_gradients(output, folder) + _write_curves(output, folder) + _write_generations(output, folder)


def _write_gradients(output: Path, folder: Path) -> int:
    cases, tensors = [], {}
    for checkpoint in CHECKPOINTS:
        for kind in ("prefix", "prompt"):
            name = f"{checkpoint.name}/{kind}"
            case, values, gradient = _gradient(checkpoint, output, kind)
            cases.append({"name": name, "model": checkpoint.name, "kind": kind, **case})
            tensors[f"{name}/values"], tensors[f"{name}/gradient"] = values, gradient
    tensors.update(_network_gradient())
    write_json(folder / "gradients.json", {"virtual_tokens": VIRTUAL_TOKENS, "hidden": HIDDEN, "cases": cases})
    save_file(tensors, folder / "gradients.safetensors")
    return len(cases) + 1


def _gradient(checkpoint: Checkpoint, output: Path, kind: str) -> tuple[dict, torch.Tensor, torch.Tensor]:
    model = load_base(checkpoint_dir(output, checkpoint.name)).double().requires_grad_(False)
    config = model.config
    generator = torch.Generator().manual_seed(checkpoint.seed)
    vocab = config.vocab_size
    rows = [(random_ids(generator, vocab, a), random_ids(generator, vocab, b)) for a, b in LENGTHS]
    heads, head_dim = config.n_head, config.n_embd // config.n_head
    shape = (config.n_layer, 2, heads, VIRTUAL_TOKENS, head_dim) if kind == "prefix" else (VIRTUAL_TOKENS, config.n_embd)
    values = torch.randn(shape, generator=generator)
    trained = values.double().requires_grad_(True)

    total = sum(len(completion) for _, completion in rows)
    loss = torch.zeros((), dtype=torch.float64)
    for prompt, completion in rows:
        logits = _logits(model, kind, trained, prompt + completion[:-1])
        loss = loss + nn.functional.cross_entropy(logits[len(prompt) - 1 :], torch.tensor(completion), reduction="sum")
    (loss / total).backward()
    case = {"rows": rows, "loss": (loss / total).item()}
    return case, values.contiguous(), trained.grad.float().contiguous()


def _logits(model: nn.Module, kind: str, trained: torch.Tensor, ids: list[int]) -> torch.Tensor:
    """`[tokens, vocab]` of one row without padding."""
    positions = torch.arange(VIRTUAL_TOKENS, VIRTUAL_TOKENS + len(ids))[None]
    if kind == "prefix":
        cache = DynamicCache()
        for layer, (key, value) in enumerate(trained):
            cache.update(key[None], value[None], layer)
        return model(input_ids=torch.tensor([ids]), position_ids=positions, past_key_values=cache, use_cache=True).logits[0]
    embeddings = torch.cat([trained, model.transformer.wte(torch.tensor(ids))])[None]
    return model(inputs_embeds=embeddings).logits[0, VIRTUAL_TOKENS:]


def _network_gradient() -> dict[str, torch.Tensor]:
    """Of a weighted sum of the prefix that PEFT's encoder makes, for the shape of `CURVE_MODEL`."""
    config = next(checkpoint for checkpoint in CHECKPOINTS if checkpoint.name == CURVE_MODEL).config
    layers, heads, width = config["n_layer"], config["n_head"], config["n_embd"]
    torch.manual_seed(6)
    embedding = nn.Embedding(VIRTUAL_TOKENS, width)
    transform = nn.Sequential(nn.Linear(width, HIDDEN), nn.Tanh(), nn.Linear(HIDDEN, layers * 2 * width))
    modules = nn.ModuleDict({"embedding": embedding, "transform": transform})
    tensors = {f"network/{name}": value.detach().clone() for name, value in modules.named_parameters()}
    modules.double()
    flat = transform(embedding(torch.arange(VIRTUAL_TOKENS)))
    prefix = flat.view(VIRTUAL_TOKENS, layers, 2, heads, width // heads).permute(1, 2, 3, 0, 4)
    weights = torch.randn(prefix.shape)
    (prefix * weights.double()).sum().backward()
    tensors["network/prefix"] = prefix.detach().float().contiguous()
    tensors["network/prefix.gradient"] = weights.contiguous()
    for name, parameter in modules.named_parameters():
        tensors[f"network/{name}.gradient"] = parameter.grad.float().contiguous()
    return tensors


def _write_curves(output: Path, folder: Path) -> int:
    generator = torch.Generator().manual_seed(7)
    base = load_base(checkpoint_dir(output, CURVE_MODEL))
    vocab = base.config.vocab_size
    batches = [
        [(random_ids(generator, vocab, a), random_ids(generator, vocab, b)) for a, b in LENGTHS]
        for _ in range(CURVE_STEPS)
    ]
    curves, tensors = [], {}
    for kind, (rate, decay) in CURVES.items():
        losses, saved = _curve(load_base(checkpoint_dir(output, CURVE_MODEL)), kind, rate, decay, batches)
        curves.append({"kind": kind, "learning_rate": rate, "weight_decay": decay, "losses": losses})
        tensors.update({f"{kind}/{name}": tensor for name, tensor in saved.items()})
    write_json(
        folder / "curves.json",
        {
            "model": CURVE_MODEL,
            "virtual_tokens": VIRTUAL_TOKENS,
            "hidden": HIDDEN,
            "warmup": CURVE_WARMUP,
            "clip": CURVE_CLIP,
            "curves": curves,
            "batches": batches,
        },
    )
    save_file(tensors, folder / "curves.safetensors")
    return len(curves)


def _curve(
    base: nn.Module, kind: str, rate: float, decay: float, batches: list
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Each step's loss before its update; the initial parameters, and `saved`: what save_pretrained would store."""
    torch.manual_seed(8)
    common = dict(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL_TOKENS)
    if kind == "prompt":
        config = PromptTuningConfig(**common)
    else:
        network = kind == "prefix-network"
        config = PrefixTuningConfig(**common, prefix_projection=network, encoder_hidden_size=HIDDEN)
    model = get_peft_model(base, config).eval()  # the base's dropout stays off
    encoder = model.prompt_encoder["default"]
    parameters = list(encoder.parameters())
    saved = {name: value.detach().clone().contiguous() for name, value in encoder.named_parameters()}
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=decay)
    schedule = get_linear_schedule_with_warmup(optimizer, CURVE_WARMUP, len(batches))
    losses = []
    for rows in batches:
        length = max(len(prompt) + len(completion) for prompt, completion in rows)
        ids = torch.zeros(len(rows), length, dtype=torch.long)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
        for row, (prompt, completion) in enumerate(rows):
            text = torch.tensor(prompt + completion)
            ids[row, : len(text)], mask[row, : len(text)] = text, 1
            labels[row, len(prompt) : len(text)] = text[len(prompt) :]
        loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, CURVE_CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    saved["saved"] = model.get_prompt_embedding_to_save("default").detach().clone().contiguous()
    return losses, saved


def _write_generations(output: Path, folder: Path) -> int:
    """Greedy tokens of PEFT with the adapters in `trained`, which test/training/peft-files.test.ts writes."""
    cases = []
    for kind in CURVES:
        base = load_base(checkpoint_dir(output, CURVE_MODEL))
        model = PeftModel.from_pretrained(base, folder / "trained" / kind).eval()
        generator = torch.Generator().manual_seed(9)
        for length in (1, 4, 11):
            prompt = random_ids(generator, base.config.vocab_size, length)
            with torch.no_grad():
                ids = model.generate(input_ids=torch.tensor([prompt]), max_new_tokens=16, do_sample=False)[0]
            cases.append({"kind": kind, "prompt_ids": prompt, "token_ids": ids[len(prompt) :].tolist()})
    write_json(folder / "generations.json", {"model": CURVE_MODEL, "cases": cases})
    return len(cases)
