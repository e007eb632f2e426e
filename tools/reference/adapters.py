"""Real PEFT adapters with random values, saved by PEFT's own save_pretrained."""

from dataclasses import dataclass
from pathlib import Path

import torch
from peft import (
    CartridgeConfig,
    CPTConfig,
    MultitaskPromptTuningConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    get_peft_model,
)
from safetensors.torch import load_file, save_file

from checkpoints import Checkpoint, load_base
from common import random_ids, read_json, write_settings

KEYS_SINCE_0_4 = ("auto_mapping", "revision", "modules_to_save", "peft_version", "init_weights")


@dataclass(frozen=True)
class Adapter:
    """One adapter: `std` is the standard deviation of the stored prompt (keys and values, or embeddings)."""

    kind: str
    virtual_tokens: int
    dtype: torch.dtype = torch.float32
    std: float = 0.8
    first_release: bool = False

    @property
    def name(self) -> str:
        """Folder name, such as `prefix-mlp-p7` or `cartridge-p12-f16`."""
        suffix = {torch.float32: "", torch.float16: "-f16", torch.bfloat16: "-bf16"}[self.dtype]
        return f"{self.kind}-p{self.virtual_tokens}{suffix}"


F16, BF16 = torch.float16, torch.bfloat16

ADAPTERS: dict[str, list[Adapter]] = {
    "gelu-new-f32": [
        Adapter("prefix", 1, std=1.0),
        Adapter("prefix", 40, F16),
        Adapter("prefix-mlp", 7),
        Adapter("cartridge", 12),
        Adapter("prompt", 5),
        Adapter("ptuning-mlp", 9, F16),
        Adapter("ptuning-lstm", 3),
        Adapter("cpt", 6),
        Adapter("multitask", 4),
    ],
    "relu-f16-hub": [
        Adapter("prefix", 5, first_release=True),
        Adapter("prefix", 10, BF16),
        Adapter("prefix-mlp", 20),
        Adapter("cartridge", 30, F16),
        Adapter("prompt", 1),
        Adapter("ptuning-mlp", 8),
        Adapter("ptuning-lstm", 15),
        Adapter("cpt", 3, BF16),
    ],
    "gelu-bf16-sharded": [
        Adapter("prefix", 3, std=2.5),
        Adapter("prefix", 16, BF16),
        Adapter("prefix-mlp", 24),
        Adapter("cartridge", 2),
        Adapter("prompt", 40),
        Adapter("ptuning-lstm", 11, BF16),
        Adapter("cpt", 18),
    ],
    "gelu-tanh-unscaled-f32": [
        Adapter("prefix", 2),
        Adapter("prefix", 25, F16, std=0.5),
        Adapter("prefix-mlp", 14),
        Adapter("cartridge", 8, BF16),
        Adapter("prompt", 13, F16),
        Adapter("ptuning-mlp", 4),
    ],
}


def adapter_dir(model_folder: Path, name: str) -> Path:
    """Folder of one adapter."""
    return model_folder / "adapters" / name


def write_adapter(checkpoint: Checkpoint, adapter: Adapter, model_folder: Path) -> None:
    """Create, randomise and save one adapter; the folder holds PEFT's two files only."""
    folder = adapter_dir(model_folder, adapter.name)
    seed = checkpoint.seed * 1000 + ADAPTERS[checkpoint.name].index(adapter)
    torch.manual_seed(seed)
    model = get_peft_model(load_base(model_folder), _peft_config(adapter, checkpoint.config["vocab_size"]))
    _randomise(model, adapter)
    model.save_pretrained(folder)
    (folder / "README.md").unlink()
    if adapter.dtype != torch.float32:
        _convert(folder / "adapter_model.safetensors", adapter.dtype)
    if adapter.first_release:
        _drop_newer_keys(folder / "adapter_config.json")


def load_with_adapter(model_folder: Path, name: str | None) -> torch.nn.Module:
    """The frozen base, alone (`None`) or wrapped by PEFT with a saved adapter."""
    base = load_base(model_folder)
    return base if name is None else PeftModel.from_pretrained(base, adapter_dir(model_folder, name)).eval()


def _peft_config(adapter: Adapter, vocab_size: int) -> PeftConfig:
    """The PEFT configuration that makes this kind of adapter."""
    common = dict(task_type="CAUSAL_LM", num_virtual_tokens=adapter.virtual_tokens)
    match adapter.kind:
        case "prefix":
            return PrefixTuningConfig(**common)
        case "prefix-mlp":
            return PrefixTuningConfig(**common, prefix_projection=True, encoder_hidden_size=20)
        case "cartridge":
            return CartridgeConfig(**common, num_frozen_tokens=1)
        case "prompt":
            return PromptTuningConfig(**common)
        case "ptuning-mlp":
            return PromptEncoderConfig(**common, encoder_reparameterization_type="MLP", encoder_hidden_size=20)
        case "ptuning-lstm":
            return PromptEncoderConfig(
                **common,
                encoder_reparameterization_type="LSTM",
                encoder_hidden_size=12,
                encoder_num_layers=2,
                encoder_dropout=0.0,
            )
        case "cpt":
            ids = random_ids(torch.Generator().manual_seed(adapter.virtual_tokens), vocab_size, adapter.virtual_tokens)
            return CPTConfig(
                task_type="CAUSAL_LM",
                cpt_token_ids=ids,
                cpt_mask=[1] * len(ids),
                cpt_tokens_type_mask=[1 + index % 4 for index in range(len(ids))],
                opt_projection_epsilon=40.0,
                opt_projection_format_epsilon=20.0,
            )
        case "multitask":
            return MultitaskPromptTuningConfig(**common, num_tasks=2, num_ranks=2)
    raise ValueError(f"unknown kind of adapter: {adapter.kind}")


def _randomise(model: PeftModel, adapter: Adapter) -> None:
    """Random encoder weights, scaled so that the prompt that PEFT will store has `adapter.std`.

    A CPT prompt keeps PEFT's scale: base embeddings plus a delta whose norm PEFT bounds.
    """
    encoder = model.prompt_encoder["default"]
    with torch.no_grad():
        if adapter.kind == "cpt":
            encoder.delta_embedding.weight.normal_()
            return
        for parameter in encoder.parameters():
            parameter.normal_(std=parameter.shape[-1] ** -0.5 if parameter.dim() > 1 else 0.1)
        if adapter.kind in ("prefix", "prompt", "multitask"):
            outputs = [encoder.embedding.weight]
        elif adapter.kind == "cartridge":
            outputs = [encoder.frozen_embedding, encoder.trainable_embedding]
        else:
            head = encoder.transform if adapter.kind == "prefix-mlp" else encoder.mlp_head
            outputs = [head[-1].weight, head[-1].bias]
        factor = adapter.std / _stored_prompt(model, adapter).std()
        for parameter in outputs:
            parameter.mul_(factor)


def _stored_prompt(model: PeftModel, adapter: Adapter) -> torch.Tensor:
    """The flat tensor that save_pretrained would write."""
    if adapter.kind == "multitask":
        return model.prompt_encoder["default"].embedding.weight
    return model.get_prompt_embedding_to_save("default")


def _convert(path: Path, dtype: torch.dtype) -> None:
    """Rewrite a safetensors file in another dtype."""
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(path).items()}
    save_file(tensors, path, metadata={"format": "pt"})


def _drop_newer_keys(path: Path) -> None:
    """Make the configuration look like one of PEFT 0.3, which lacks many of today's keys."""
    settings = {key: value for key, value in read_json(path).items() if key not in KEYS_SINCE_0_4}
    write_settings(path, settings)
