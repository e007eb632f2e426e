"""Token ids that transformers gives for tokenizer folders of many kinds, all made from the demo's by small edits.

    tokenizer_folders.py [--output DIR] [--tokenizer DIR]

Writes `tokenizer-folders.json`, which has the edits as well: the tests make the same folders by them. Needs no model.
"""

import argparse
import hashlib
import json
import random
import shutil
import tempfile
from pathlib import Path

from transformers import AutoTokenizer

REPOSITORY = Path(__file__).resolve().parents[2]
EOT = "<|endoftext|>"
GPT2 = {"tokenizer_class": "GPT2Tokenizer"}
STORED = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": EOT, "eos_token": EOT}

EXAMPLES = [
    "",
    "Hello",
    "book resto_bombay now<|sep|>",
    " a  <|sep|>\n b resto_bombayx [MASK]y",
    "x <|endoftext|>y <|endoftext|>",
    "\u00c9t\u00e9 Cafe\u0301 \u0391\u03a3 12\u00bd3",
]

# What texts of the property test are made of: names of tokens, parts of them, what stands beside them, and any characters.
NAMES = [EOT, "<|sep|>", "resto_bombay", "[MASK]", "[PAD]", "NEW", "NEWWORD", "caf\u00e9", "<|", "resto"]
BESIDE = [" ", "  ", "\n", "\t", "\u00a0", "\u0085", "\u3000", "\ufeff", "\u200d", "_", "-", "a", "B", "7", "\u00e9", "e\u0301", "\u4e2d", "\U0001f600", "\u0301", "'s", "\u00bd", "\u03a3"]
RANGES = [(0, 0x7F), (0x80, 0x2FF), (0x300, 0x36F), (0x370, 0x52F), (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE7F), (0x1100, 0x11FF), (0x2000, 0x206F), (0x2100, 0x218F), (0x3040, 0x30FF), (0x4E00, 0x4FFF), (0xFE00, 0xFFFF), (0x1F300, 0x1F6FF)]


def random_texts(count: int) -> list[str]:
    """Texts of all of these, without surrogates."""
    source = random.Random(5)
    texts = []
    for _ in range(count):
        parts = []
        for _ in range(source.randint(1, 14)):
            kind = source.random()
            if kind < 0.35:
                parts.append(source.choice(NAMES))
            elif kind < 0.75:
                parts.append(source.choice(BESIDE))
            else:
                parts.append(chr(source.randint(*source.choice(RANGES))))
        texts.append("".join(parts))
    return texts


def token(number: int, content: str, **flags: bool) -> dict:
    """An entry of tokenizer.json's added_tokens."""
    return {"id": number, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True, **flags}


def without_id(entry: dict) -> dict:
    """The same as an entry of added_tokens_decoder or special_tokens_map.json."""
    return {key: value for key, value in entry.items() if key != "id"}


def template(*single: str, **ids: list[int]) -> dict:
    """A TemplateProcessing; "A" is the text, other names are those of `ids`."""
    pieces = [{"Sequence": {"id": "A", "type_id": 0}} if name == "A" else {"SpecialToken": {"id": name, "type_id": 0}} for name in single]
    special = {name: {"id": name, "ids": numbers, "tokens": [str(number) for number in numbers]} for name, numbers in ids.items()}
    return {"type": "TemplateProcessing", "single": pieces, "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": special}


BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
FLAGGED = [
    token(4095, EOT),
    token(4096, "<|sep|>", lstrip=True, rstrip=True),
    token(4097, "resto_bombay", special=False, single_word=True),
    token(4098, "[MASK]", lstrip=True),
    token(4099, "NEW", special=False, rstrip=True),
    token(4100, "NEWWORD", special=False, single_word=True, lstrip=True),
    token(4101, "caf\u00e9", special=False, normalized=True),
    token(4102, "B7", special=False, normalized=True, single_word=True),
]
LISTED = [["added_tokens"], FLAGGED]
DECODER = {str(entry["id"]): without_id(entry) for entry in FLAGGED}
ADDED = {"<|sep|>": 4096, "resto_bombay": 4097}
MASK = without_id(token(0, "[MASK]", lstrip=True))
TWO = ["<|sep|>", "resto_bombay"]


def config(base: dict, **more: object) -> dict:
    """The files of a folder whose tokenizer_config.json says this."""
    return {"tokenizer_config.json": {**base, **more}}


# Of each folder: whether it has tokenizer.json or vocab.json and merges.txt, files that it has as well, edits of tokenizer.json
# (a path and a value) and tokens that its vocabulary lacks.
FOLDERS = [
    {"name": "old files alone", "layout": "old"},
    {"name": "old, added_tokens.json and special_tokens_map.json", "layout": "old", "files": {"added_tokens.json": ADDED, "special_tokens_map.json": {"bos_token": EOT, "eos_token": EOT, "unk_token": EOT, "additional_special_tokens": ["<|sep|>"]}, **config(GPT2)}},
    {"name": "old, added_tokens.json and tokens named in special_tokens_map.json", "layout": "old", "files": {"added_tokens.json": {"<|sep|>": 4097, "[MASK]": 4096}, "special_tokens_map.json": {"sep_token": "<|sep|>", "mask_token": MASK, "pad_token": "[PAD]", "bos_token": None}}},
    {"name": "old, a token as an object in special_tokens_map.json alone", "layout": "old", "files": {"special_tokens_map.json": {"mask_token": MASK, "eos_token": without_id(token(0, EOT, normalized=True))}, **config(GPT2)}},
    {"name": "old, extra_special_tokens in both files", "layout": "old", "files": {"added_tokens.json": ADDED, "special_tokens_map.json": {"extra_special_tokens": ["<|sep|>", "[PAD]"]}, **config(GPT2, additional_special_tokens=["resto_bombay"])}},
    {"name": "old, the end of a text in added_tokens.json alone", "layout": "old", "drop": [EOT], "files": {"added_tokens.json": {EOT: 4095}, "special_tokens_map.json": {"bos_token": EOT, "eos_token": EOT}, **config(GPT2)}},
    {"name": "old, the end of a text nowhere", "layout": "old", "drop": [EOT]},
    {"name": "old, added_tokens.json names tokens of the vocabulary", "layout": "old", "files": {"added_tokens.json": {"He": 1283, "B": 33}}},
    {"name": "old, added_tokens_decoder with flags beside files that it hides", "layout": "old", "files": {"added_tokens.json": {"[PAD]": 4096}, "special_tokens_map.json": {"pad_token": "[PAD]"}, **config(GPT2, added_tokens_decoder=DECODER)}},
    {"name": "old, added_tokens_decoder with defaults", "layout": "old", "files": config(GPT2, added_tokens_decoder={"4096": {"content": "<|sep|>"}, "4097": {"content": "[MASK]", "special": True}})},
    {"name": "old, tokens that are only named", "layout": "old", "files": config(GPT2, pad_token="[PAD]", additional_special_tokens=TWO, mask_token={"__type": "AddedToken", **MASK})},
    {"name": "old, tokens under names of one's own", "layout": "old", "files": config(GPT2, image_token="[MASK]", extra_special_tokens={"house": "<|sep|>"})},
    {"name": "old, add_bos_token", "layout": "old", "files": config(GPT2, add_bos_token=True)},
    {"name": "old, add_bos_token and add_eos_token, which is another token", "layout": "old", "files": config(GPT2, add_bos_token=True, add_eos_token=True, eos_token="<|sep|>")},
    {"name": "old, add_bos_token without a BOS", "layout": "old", "files": config(GPT2, add_bos_token=True, bos_token=None)},
    {"name": "old, add_prefix_space", "layout": "old", "files": config(GPT2, add_prefix_space=True, added_tokens_decoder=DECODER)},
    {"name": "old, split_special_tokens", "layout": "old", "files": config(GPT2, split_special_tokens=True, added_tokens_decoder=DECODER)},
    *[
        folder
        for kind, base in (("GPT2Tokenizer", GPT2), ("as stored", STORED))
        for folder in (
            {"name": f"{kind}, flags", "layout": "new", "files": config(base), "patch": [LISTED]},
            {"name": f"{kind}, the older files beside", "layout": "new", "files": {"added_tokens.json": ADDED, "special_tokens_map.json": {"pad_token": "[PAD]", "mask_token": MASK}, **config(base)}},
            {"name": f"{kind}, the older files beside and listed tokens", "layout": "new", "files": {"added_tokens.json": {"[PAD]": 4096, "resto_bombay": 4097}, **config(base)}, "patch": [[["added_tokens"], FLAGGED[:2]]]},
            {"name": f"{kind}, added_tokens_decoder has fewer", "layout": "new", "files": config(base, added_tokens_decoder={"4095": without_id(FLAGGED[0]), "4096": {"content": "<|sep|>"}}), "patch": [LISTED]},
            {"name": f"{kind}, added_tokens_decoder has more", "layout": "new", "files": config(base, added_tokens_decoder=DECODER)},
            {"name": f"{kind}, a pad token that is only named", "layout": "new", "files": config(base, pad_token="[PAD]")},
            {"name": f"{kind}, a listed token becomes special by its name", "layout": "new", "files": config(base, mask_token="[MASK]"), "patch": [[["added_tokens"], [token(4095, EOT), token(4096, "[MASK]", special=False)]]]},
            {"name": f"{kind}, BOS by a template", "layout": "new", "files": config(base), "patch": [[["post_processor"], template("bos", "A", bos=[4095])]]},
            {"name": f"{kind}, BOS and several ids by a template", "layout": "new", "files": config(base, add_bos_token=True), "patch": [[["post_processor"], template("bos", "A", "end", "bos", bos=[4095], end=[5, 6])], LISTED]},
            {"name": f"{kind}, RobertaProcessing", "layout": "new", "files": config(base), "patch": [[["post_processor"], {"type": "RobertaProcessing", "sep": ["b", 6], "cls": ["a", 5], "trim_offsets": True, "add_prefix_space": False}]]},
            {"name": f"{kind}, BertProcessing", "layout": "new", "files": config(base), "patch": [[["post_processor"], {"type": "BertProcessing", "sep": ["b", 6], "cls": ["a", 5]}]]},
            {"name": f"{kind}, a sequence of post-processors", "layout": "new", "files": config(base), "patch": [[["post_processor"], {"type": "Sequence", "processors": [BYTE_LEVEL, template("bos", "A", bos=[4095])]}]]},
            {"name": f"{kind}, no post-processor and add_bos_token", "layout": "new", "files": config(base, add_bos_token=True), "patch": [[["post_processor"], None]]},
            {"name": f"{kind}, truncation and padding", "layout": "new", "files": config(base), "patch": [[["truncation"], {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}], [["padding"], {"strategy": {"Fixed": 10}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 3, "pad_type_id": 0, "pad_token": "[PAD]"}]]},
            {"name": f"{kind}, add_prefix_space in tokenizer.json", "layout": "new", "files": config(base), "patch": [[["pre_tokenizer", "add_prefix_space"], True], LISTED]},
            {"name": f"{kind}, add_prefix_space in tokenizer_config.json", "layout": "new", "files": config(base, add_prefix_space=True)},
            {"name": f"{kind}, an unknown token", "layout": "new", "files": config(base), "patch": [[["model", "unk_token"], EOT], [["model", "fuse_unk"], True]]},
        )
    ],
    {"name": "as stored, no regular expression", "layout": "new", "files": config(STORED), "patch": [[["pre_tokenizer", "use_regex"], False]]},
    {"name": "as stored, digits one by one", "layout": "new", "files": config(STORED), "patch": [[["pre_tokenizer"], {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}, BYTE_LEVEL]}]]},
    {"name": "as stored, digits together", "layout": "new", "files": config(STORED), "patch": [[["pre_tokenizer"], {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": False}, BYTE_LEVEL]}]]},
    {"name": "as stored, ignore_merges", "layout": "new", "files": config(STORED), "patch": [[["model", "ignore_merges"], True], [["model", "vocab", EOT], 4095], [["model", "vocab", "NE"], 4096], [["model", "vocab", "resto"], 4097]]},
    {"name": "as stored, NFC", "layout": "new", "files": config(STORED), "patch": [[["normalizer"], {"type": "NFC"}], LISTED]},
    {"name": "as stored, Lowercase", "layout": "new", "files": config(STORED), "patch": [[["normalizer"], {"type": "Lowercase"}], LISTED]},
    {"name": "as stored, a special token in lower case", "layout": "new", "files": config(STORED, pad_token="[PAD]"), "patch": [[["normalizer"], {"type": "Lowercase"}], [["added_tokens"], [token(4095, EOT, normalized=True), token(4096, "[MASK]", normalized=True), token(4097, "[PAD]", normalized=True, special=False)]]]},
    {"name": "as stored, Prepend", "layout": "new", "files": config(STORED), "patch": [[["normalizer"], {"type": "Prepend", "prepend": "_"}], LISTED]},
    {"name": "as stored, Strip, NFC, Replace and Lowercase", "layout": "new", "files": config(STORED), "patch": [[["normalizer"], {"type": "Sequence", "normalizers": [{"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "NFC"}, {"type": "Replace", "pattern": {"String": "a"}, "content": "$&o"}, {"type": "Lowercase"}]}], LISTED]},
    {"name": "as stored, Strip on the right", "layout": "new", "files": config(STORED), "patch": [[["normalizer"], {"type": "Strip", "strip_left": False, "strip_right": True}], LISTED]},
]


def make_folder(demo: Path, target: Path, spec: dict) -> None:
    """The folder that a spec means."""
    (target / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    if spec["layout"] == "new":
        document = json.loads((demo / "tokenizer.json").read_text(encoding="utf-8"))
        for path, value in spec.get("patch", []):
            place = document
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value
        (target / "tokenizer.json").write_text(json.dumps(document))
    else:
        vocabulary = json.loads((demo / "vocab.json").read_text(encoding="utf-8"))
        for name in spec.get("drop", []):
            del vocabulary[name]
        (target / "vocab.json").write_text(json.dumps(vocabulary))
        shutil.copy(demo / "merges.txt", target)
    for name, document in spec.get("files", {}).items():
        (target / name).write_text(json.dumps(document))


def digest(ids: list[int]) -> str:
    """Enough of a hash of token ids to tell them from others."""
    return hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()[:6]


def golden(demo: Path, spec: dict, texts: list[str]) -> dict:
    """What transformers makes of a folder and of the texts."""
    with tempfile.TemporaryDirectory() as folder:
        make_folder(demo, Path(folder), spec)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    added = tokenizer.added_tokens_decoder
    plain = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    return {
        **spec,
        "eos": tokenizer.eos_token_id,
        "tokens": {number: tokenizer.decode([number], skip_special_tokens=True) for number in sorted(added)},
        "prompts": [tokenizer(text)["input_ids"] for text in EXAMPLES],
        "ids": [tokenizer(text, add_special_tokens=False)["input_ids"] for text in EXAMPLES],
        "digests": "".join(map(digest, plain)),
    }


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, default=REPOSITORY / "test" / "golden")
    parser.add_argument("--tokenizer", type=Path, default=REPOSITORY / "models" / "demo")
    arguments = parser.parse_args()
    texts = random_texts(400)
    folders = [golden(arguments.tokenizer, spec, texts) for spec in FOLDERS]
    lines = ",\n".join(json.dumps(folder, separators=(",", ":")) for folder in folders)
    document = f'{{\n"examples": {json.dumps(EXAMPLES)},\n"texts": {json.dumps(texts)},\n"folders": [\n{lines}\n]\n}}\n'
    (arguments.output / "tokenizer-folders.json").write_text(document, encoding="ascii")


if __name__ == "__main__":
    main()
