"""Paths, number formatting and JSON layout shared by the generators."""

import json
from pathlib import Path

import torch

REPOSITORY = Path(__file__).resolve().parents[2]
DEFAULT_OUTPUT = REPOSITORY / "test" / "golden"
DEFAULT_TOKENIZER = REPOSITORY / "models" / "demo"


def seven_digits(value: float) -> float:
    """Round to 7 significant digits: what a float32 result is worth."""
    return float(f"{value:.7g}")


def float32_digits(tensor: torch.Tensor) -> list[float]:
    """The shortest decimals that read back as exactly these float32 values."""
    return [float(str(value)) for value in tensor.to(torch.float32).numpy()]


def random_ids(generator: torch.Generator, vocab_size: int, length: int) -> list[int]:
    """`length` uniform token ids below `vocab_size`."""
    return torch.randint(vocab_size, (length,), generator=generator).tolist()


def write_json(path: Path, document: dict) -> None:
    """Write a JSON object; a list of objects or lists gets one line per item, so that diffs stay readable."""
    members = []
    for key, value in document.items():
        if isinstance(value, list) and value and isinstance(value[0], (dict, list)):
            items = ",\n".join(json.dumps(item, separators=(",", ":")) for item in value)
            members.append(f"{json.dumps(key)}: [\n{items}\n]")
        else:
            members.append(f"{json.dumps(key)}: {json.dumps(value)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(members) + "\n}\n", encoding="ascii")


def write_settings(path: Path, settings: dict) -> None:
    """Write a config file in the layout of save_pretrained."""
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict:
    """Read a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def greedy_token_logprobs(logits: torch.Tensor, token_ids: list[int]) -> torch.Tensor:
    """Log-softmax (float64, from float32 logits `[steps, vocab]`) of the token chosen at each step."""
    logprobs = logits.double().log_softmax(-1)
    return logprobs[torch.arange(len(token_ids)), torch.tensor(token_ids, dtype=torch.long)]


def next_token_logits(model: torch.nn.Module, token_ids: list[int]) -> torch.Tensor:
    """Raw logits `[tokens, vocab]` after each token, by one uncached forward pass; what virtual tokens put out is cut off."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([token_ids])).logits[0]
    return logits[-len(token_ids) :]
