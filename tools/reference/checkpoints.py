"""Tiny random GPT-2 checkpoints, each with another shape, dtype and on-disk form."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from common import read_json, write_settings


@dataclass(frozen=True)
class Checkpoint:
    """One base model: `config` are GPT2Config arguments, `form` is how it lies on disk."""

    name: str
    seed: int
    form: str
    dtype: torch.dtype
    attention_std: float
    eos_boost: float
    config: dict = field(hash=False)


CHECKPOINTS = [
    Checkpoint(
        name="gelu-new-f32",
        seed=11,
        form="transformers",
        dtype=torch.float32,
        attention_std=0.2,
        eos_boost=1.7,
        config=dict(vocab_size=257, n_positions=96, n_embd=32, n_layer=3, n_head=4),
    ),
    Checkpoint(
        name="relu-f16-hub",
        seed=12,
        form="hub",
        dtype=torch.float16,
        attention_std=0.2,
        eos_boost=2.0,
        config=dict(
            vocab_size=331,
            n_positions=64,
            n_embd=48,
            n_layer=2,
            n_head=3,
            n_inner=80,
            activation_function="relu",
            layer_norm_epsilon=1e-6,
        ),
    ),
    Checkpoint(
        name="gelu-bf16-sharded",
        seed=13,
        form="sharded",
        dtype=torch.bfloat16,
        attention_std=0.3,
        eos_boost=2.0,
        config=dict(
            vocab_size=384,
            n_positions=128,
            n_embd=64,
            n_layer=3,
            n_head=2,
            n_inner=128,
            activation_function="gelu",
            scale_attn_by_inverse_layer_idx=True,
        ),
    ),
    Checkpoint(
        name="gelu-tanh-unscaled-f32",
        seed=14,
        form="with-lm-head",
        dtype=torch.float32,
        attention_std=0.25,
        eos_boost=2.8,
        config=dict(
            vocab_size=211,
            n_positions=80,
            n_embd=24,
            n_layer=4,
            n_head=3,
            activation_function="gelu_pytorch_tanh",
            scale_attn_weights=False,
        ),
    ),
]


def checkpoint_dir(output: Path, name: str) -> Path:
    """Folder of one base model."""
    return output / "models" / name


def load_base(folder: Path) -> GPT2LMHeadModel:
    """Load a checkpoint the way the server does: every tensor upcast to float32, eager attention, no dropout."""
    model, info = GPT2LMHeadModel.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    if info["missing_keys"] or info["mismatched_keys"]:
        raise RuntimeError(f"{folder} did not load completely: {info}")
    model.name_or_path = folder.name
    return model.eval()


def write_checkpoint(spec: Checkpoint, folder: Path) -> None:
    """Create the random model of `spec` and save it in its form."""
    eos = spec.config["vocab_size"] - 1
    config = GPT2Config(**spec.config, bos_token_id=eos, eos_token_id=eos)
    model = GPT2LMHeadModel(config)
    _randomise(model, spec)
    model.to(spec.dtype).save_pretrained(folder, max_shard_size="100KB" if spec.form == "sharded" else "1GB")
    if spec.form == "hub":
        _rewrite_as_hub_file(folder, config)
    elif spec.form == "with-lm-head":
        _add_lm_head(folder)


def _randomise(model: GPT2LMHeadModel, spec: Checkpoint) -> None:
    """Weights large enough that outputs vary; `eos_boost` shifts ln_f so that EOS wins now and then."""
    generator = torch.Generator().manual_seed(spec.seed)

    def normal(parameter: torch.Tensor, std: float, mean: float = 0.0) -> None:
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * std + mean)

    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if ".ln_" in name:
                normal(parameter, 0.15, mean=1.0 if name.endswith("weight") else 0.0)
            elif name.endswith("bias"):
                normal(parameter, 0.15)
            elif "c_attn" in name:
                normal(parameter, spec.attention_std)
            elif name.endswith("wpe.weight"):
                normal(parameter, 0.9)
            else:
                normal(parameter, 0.4)
        eos_row = model.transformer.wte.weight[-1]
        model.transformer.ln_f.bias += spec.eos_boost * eos_row / eos_row.norm()


def _rewrite_as_hub_file(folder: Path, config: GPT2Config) -> None:
    """The layout of the first hub uploads: no `transformer.` prefix, causal-mask buffers, torch_dtype and n_ctx."""
    path = folder / "model.safetensors"
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(path).items()}
    causal = torch.ones(config.n_positions, config.n_positions, dtype=torch.uint8).tril()[None, None]
    for layer, mask in enumerate([causal, causal.bool()]):
        tensors[f"h.{layer}.attn.bias"] = mask
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    save_file(tensors, path, metadata={"format": "pt"})

    settings = read_json(folder / "config.json")
    settings["torch_dtype"] = settings.pop("dtype")
    settings["n_ctx"] = config.n_positions
    settings["task_specific_params"] = {"text-generation": {"do_sample": True, "max_length": 50}}
    for key in ("tie_word_embeddings", "pad_token_id", "transformers_version", "add_cross_attention"):
        settings.pop(key, None)
    write_settings(folder / "config.json", settings)


def _add_lm_head(folder: Path) -> None:
    """Older files carry the tied head a second time."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"].clone()
    save_file(tensors, path, metadata={"format": "pt"})
