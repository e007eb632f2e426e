"""Adapters that PEFT saves with copies of the base model's embeddings, and the same ones without."""

import shutil
from pathlib import Path

import torch
from peft import PrefixTuningConfig, get_peft_model
from transformers import GPT2LMHeadModel

from checkpoints import checkpoint_dir

BASE = "gelu-tanh-unscaled-f32"
HALF_BASE = "relu-f16-hub"
NEW_TOKENS = 2

# name: base model, type that it was loaded in
COPIES = {
    "f32": (BASE, torch.float32),
    "f16": (BASE, torch.float16),
    "bf16": (BASE, torch.bfloat16),
    "f32-of-f16": (HALF_BASE, torch.float32),
}


def write_embedding_layers(output: Path) -> int:
    """Write `embedding-layers/<name>/{with,without}` for each type, and `embedding-layers/{resized,changed}`."""
    target = output / "embedding-layers"
    shutil.rmtree(target, ignore_errors=True)
    for name, (base, dtype) in COPIES.items():
        model = _adapter(checkpoint_dir(output, base), dtype)
        _save(model, target / name / "with", save_embedding_layers=True)
        _save(model, target / name / "without", save_embedding_layers=False)
    # PEFT finds the other vocabulary by itself: the base's folder says how large it was.
    _save(_adapter(checkpoint_dir(output, BASE), torch.float32, new_tokens=NEW_TOKENS), target / "resized")
    changed = _adapter(checkpoint_dir(output, BASE), torch.float32)
    with torch.no_grad():
        changed.get_input_embeddings().weight[-1, -1] += 1e-6
    _save(changed, target / "changed", save_embedding_layers=True)
    return len(COPIES) + 2


def _adapter(folder: Path, dtype: torch.dtype, new_tokens: int = 0) -> torch.nn.Module:
    """A prefix of two virtual tokens over the base model."""
    torch.manual_seed(5)
    base = GPT2LMHeadModel.from_pretrained(folder, dtype=dtype)
    if new_tokens:
        base.resize_token_embeddings(base.config.vocab_size + new_tokens)
    model = get_peft_model(base, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with torch.no_grad():
        model.prompt_encoder["default"].embedding.weight.normal_()
    return model


def _save(model: torch.nn.Module, folder: Path, **options: object) -> None:
    """Save it; the folder holds PEFT's two files only, and its configuration no path of this machine."""
    model.save_pretrained(folder, **options)
    (folder / "README.md").unlink()
    config = folder / "adapter_config.json"
    base = Path(model.peft_config["default"].base_model_name_or_path)
    config.write_text(config.read_text(encoding="utf-8").replace(str(base), base.name), encoding="utf-8")
