"""The demo tasks: where their rows come from, how a row becomes a prompt, how it is scored."""

import json
import lzma
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BASE_DIR = ROOT / "models" / "demo"
PREFIXES_DIR = ROOT / "prefixes"
BASE_NAME = "prefixd/demo"  # written into every adapter_config.json

END_OF_TEXT = "<|endoftext|>"
SEPARATOR = "\n=>"  # prompt = input + SEPARATOR; the model answers " " + target + END_OF_TEXT

MONTHS = (
    "January February March April May June July August September October November December".split()
)

# Metric that decides how well a task is learned; eval.py reports others beside it.
PRIMARY_METRIC = {
    "datenorm": "exact",
    "datelong": "exact",
    "truecase": "exact",
    "intent": "exact",
    "sgd_slots": "exact",
    "e2e": "bleu",
    "sgd_nlg": "bleu",
    "rnnlg": "bleu",
}

# Never seen in any form by the base: datelong's output format and rnnlg's data are new to it.
HELD_OUT_OF_PRETRAINING = {"datelong", "rnnlg"}

# Answers of these tasks are a few tokens long; the others are sentences.
SHORT_ANSWER_TASKS = {"datenorm", "datelong", "intent"}
SHORT_ANSWER_TOKENS = 24
LONG_ANSWER_TOKENS = 90


def to_long_date(iso_date):
    """'2029-10-25' -> '25 October 2029'."""
    year, month, day = iso_date.split("-")
    return f"{int(day)} {MONTHS[int(month) - 1]} {year}"


def read_rows(corpora, task, split):
    """Rows of tasks/<task>.<split>.jsonl.xz as dicts with at least `input` and `target`."""
    with lzma.open(Path(corpora) / "tasks" / f"{task}.{split}.jsonl.xz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def load(corpora, task, split):
    """Rows of a task with `prompt` and `references` added. `datelong` is `datenorm` with another target."""
    rows = read_rows(corpora, "datenorm" if task == "datelong" else task, split)
    for row in rows:
        if task == "datelong":
            row["target"] = to_long_date(row["target"])
        row["references"] = row.get("references") or [row["target"]]
        row["prompt"] = row["input"].strip() + SEPARATOR
    return rows


def max_answer_tokens(task):
    return SHORT_ANSWER_TOKENS if task in SHORT_ANSWER_TASKS else LONG_ANSWER_TOKENS
