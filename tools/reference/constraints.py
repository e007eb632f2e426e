"""What transformers generates with the demo model where `prefix_allowed_tokens_fn` says which tokens may come: greedy search and beams."""

from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoTokenizer, GPT2LMHeadModel, StoppingCriteria, StoppingCriteriaList

from common import REPOSITORY, seven_digits, write_json

DEMO = REPOSITORY / "models" / "demo"
PROMPTS = ["the weather is", "turn on the microwave for 3 minutes\n=>", "it happened on", "a"]
LABELS = [" smart home", " weather", " smart phone", " we", " alarm clock", " no"]
DATE = ["0123456789"] * 4 + ["-"] + ["0123456789"] * 2 + ["-"] + ["0123456789"] * 2
SETTINGS = [{"num_beams": 1}, {"num_beams": 2}, {"num_beams": 4, "length_penalty": 0.0}, {"num_beams": 3, "repetition_penalty": 1.3}]

def byte_alphabet() -> dict[str, int]:
    """GPT-2's characters for bytes: printable ones stand for themselves, the others for code points from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


Fits = Callable[[bytes], bool]


def fits_label(text: bytes) -> bool:
    return any(label.encode().startswith(text) for label in LABELS)


def fits_date(text: bytes) -> bool:
    return len(text) <= len(DATE) and all(chr(byte) in allowed for byte, allowed in zip(text, DATE))


FORMS: dict[str, tuple[dict, Fits, Callable[[bytes], bool], Callable[[bytes], bool]]] = {
    # How a request says it, what may be the beginning of a text, what may be all of it, after what nothing may follow.
    "choice": (
        {"choice": LABELS},
        fits_label,
        lambda text: text.decode(errors="replace") in LABELS,
        lambda text: text.decode(errors="replace") in LABELS and not any(label.encode().startswith(text) and len(label) > len(text) for label in LABELS),
    ),
    "regex": ({"regex": r"\d{4}-\d{2}-\d{2}"}, fits_date, lambda text: len(text) == len(DATE), lambda text: len(text) == len(DATE)),
}


class NothingFollows(StoppingCriteria):
    """Ends a sequence once nothing may follow, without EOS."""

    def __init__(self, text_of: Callable[[list[int]], bytes], ends: Callable[[bytes], bool]) -> None:
        self.text_of, self.ends = text_of, ends

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_: object) -> torch.BoolTensor:
        return torch.tensor([self.ends(self.text_of(row.tolist())) for row in input_ids])


def write_constraints(output: Path) -> int:
    """Write constraints.json and return the number of cases."""
    model = GPT2LMHeadModel.from_pretrained(DEMO).float().eval()
    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    byte_of = byte_alphabet()
    eos = model.config.eos_token_id
    tokens = [b"" if id == eos else bytes(byte_of[c] for c in tokenizer.convert_ids_to_tokens(id)) for id in range(model.config.vocab_size)]
    cases = []
    for name, (form, fits, complete, ends) in FORMS.items():
        for prompt in PROMPTS:
            ids = tokenizer(prompt)["input_ids"]

            def text_of(row: list[int], start: int = len(ids)) -> bytes:
                return b"".join(tokens[id] for id in row[start:])

            def allowed(_: int, row: torch.LongTensor) -> list[int]:
                text = text_of(row.tolist())
                may = [id for id, token in enumerate(tokens) if token and fits(text + token)]
                return [*may, eos] if complete(text) else may

            for settings in SETTINGS:
                beams = settings["num_beams"]
                with torch.no_grad():
                    result = model.generate(
                        torch.tensor([ids]),
                        max_new_tokens=20,
                        do_sample=False,
                        prefix_allowed_tokens_fn=allowed,
                        stopping_criteria=StoppingCriteriaList([NothingFollows(text_of, ends)]),
                        num_return_sequences=beams,
                        return_dict_in_generate=True,
                        output_scores=True,
                        pad_token_id=eos,
                        **settings,
                    )
                sequences = []
                for index, row in enumerate(result.sequences):
                    new = row[len(ids) :].tolist()
                    while len(new) > 1 and new[-1] == eos and (new[-2] == eos or ends(b"".join(tokens[id] for id in new[:-1]))):
                        new.pop()
                    score = {} if beams == 1 else {"score": seven_digits(float(result.sequences_scores[index]))}
                    sequences.append({"token_ids": new, **score})
                cases.append({"prompt_ids": ids, "structured_outputs": form, **settings, "sequences": sequences})
    write_json(output / "constraints.json", {"model": "demo", "cases": cases})
    return len(cases)

