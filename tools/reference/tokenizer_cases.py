"""Token ids and decoded texts of the Hugging Face fast tokenizer."""

from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.convert_slow_tokenizer import bytes_to_unicode

from common import random_ids, write_json

TEXTS = [
    "",
    " ",
    "  ",
    "   leading and trailing   ",
    "\t",
    "\t\tindented\twith\ttabs",
    "\n",
    "\n\n\nlines\n\n",
    "windows\r\nline\r\nends\r\n",
    "old mac\rline\r",
    "a  b   c    d     e",
    " \n \t \r\n ",
    "Hello, world!",
    "Hello world",
    "hello WORLD HeLLo",
    "name : Alimentum | area : city centre | family friendly : no",
    "The quick brown fox jumps over the lazy dog.",
    "I'm you're he'll we've they'd it's can't",
    "I'M YOU'RE HE'LL WE'VE THEY'D IT'S CAN'T",
    "I\u2019m you\u2019re it\u2019s",
    "'s 't 're 've 'm 'll 'd 'x ''",
    "don't 'quote' o'clock rock'n'roll",
    "0 1 12 123 1234 12345 1234567890",
    "3.14159 -273.15 1e-10 0x1F 1,000,000",
    "2024-02-29T12:34:56Z",
    "\u0661\u0662\u0663 \u00bd \u00b2 \u2167 \u3007",
    "caf\u00e9 na\u00efve r\u00e9sum\u00e9 \u00fcber stra\u00dfe",
    "cafe\u0301 nai\u0308ve A\u030a",
    "Z\u0351\u036b\u0343\u036aa\u0321\u034al\u0358\u0340g\u0489o\u0322",
    "\u017b\u00f3\u0142\u0107 g\u0119\u015bl\u0105 ja\u017a\u0144",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!",
    "\u0393\u03b5\u03b9\u03b1 \u03c3\u03bf\u03c5 \u03ba\u03cc\u03c3\u03bc\u03b5",
    "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3067\u3059\u3002",
    "\u4f60\u597d\uff0c\u4e16\u754c\uff01",
    "\ud55c\uad6d\uc5b4 \ud14d\uc2a4\ud2b8",
    "\u1112\u1161\u11ab\u1100\u116e\u11a8",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd abc \u05e2\u05d5\u05dc\u05dd",
    "\u202eright to left override\u202c \u200fmark\u200e",
    "\U0001f600 \U0001f602\U0001f602\U0001f602",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 family",
    "\U0001f3f3\ufe0f\u200d\U0001f308 \U0001f1eb\U0001f1f7\U0001f1e9\U0001f1ea",
    "\U0001f44d\U0001f3fd\U0001f44d\U0001f3ff \u2764\ufe0f \u2764",
    "\U00020000\U0002a6d6 \U0001d54f\U0001d4b6",
    "non\u00a0breaking\u2003em\u2009thin\u3000ideographic",
    "zero\u200bwidth\u200cjoin\u200der\u2060s\ufeff",
    "\ufeffbyte order mark",
    "line\u2028separator\u2029paragraph\u0085next",
    "soft\u00adhyphen",
    "\x00",
    "nul\x00in\x00side",
    "\x01\x02\x03\x07\x08\x0b\x0c\x0e\x1b[31mred\x1b[0m\x7f",
    "\x80\x81\x9f\xa0\xad\xff",
    "\ufffd\ufffd replacement",
    "\ufffe\uffff\U0010ffff noncharacters",
    "\ue000\uf8ff\U000f0000 private use",
    "<|endoftext|>",
    "before<|endoftext|>after",
    "before <|endoftext|> after",
    "<|endoftext|><|endoftext|>",
    "<|endoftext|",
    "<|ENDOFTEXT|> <| endoftext |>",
    "<s></s>[PAD]<unk><pad>",
    "a" * 300,
    "supercalifragilisticexpialidocious" * 6,
    "=" * 80 + "\n" + "-" * 80,
    " " * 64,
    "\n" * 20,
    "!?!?!?...,,,;;;:::",
    "$100 50% #1 a@b.c x*y (a+b)^2 ~/path_to/file-name.txt",
    "https://example.org/a/b?c=d&e=f%20g#h",
    'def f(x: int) -> str:\n    """Doc."""\n    return f"{x!r}"\n',
    'const f = async (x) => {\n\tawait g(`${x}`);\n};\n// end\n',
    '{"key": [1, 2.5, null, true], "nested": {"a": "\\u00e9"}}',
    "SELECT * FROM t WHERE a <> 'b';--",
    "<html><body class=\"x\">&amp;&nbsp;</body></html>",
    "\\n is not a newline, \\ is a backslash",
    "\u0120hello \u010a \u0100 the byte alphabet itself",
    "mixed\u65e5\u672c123abc \u00e9\u00e9\U0001f600x y",
    "\u01c5 \ufb01 \u2126 \u212b \uff21\uff22\uff23 \u33a5",
    "a\u0300\u0301\u0302\u0303\u0304\u0305\u0306\u0307b",
    " a", "a ", " a ", "\ta", "a\n", "\n a", "  \n\n  x",
]


def write_tokenizer_cases(tokenizer_folder: Path, path: Path) -> int:
    """Write tokenizer-cases.json and return the number of cases."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    encode = [{"text": text, "ids": tokenizer(text)["input_ids"]} for text in TEXTS]
    decode = [_decoded(tokenizer, ids) for ids in _id_sequences(tokenizer)]
    write_json(path, {"eos_token_id": tokenizer.eos_token_id, "encode": encode, "decode": decode})
    return len(encode) + len(decode)


def _id_sequences(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """Sequences that cut UTF-8 characters, hold special tokens, single bytes, or anything at random."""
    eos = tokenizer.eos_token_id
    family = tokenizer("\U0001f468\u200d\U0001f469 \u65e5\u672c \u00e9")["input_ids"]
    byte_ids = {byte: tokenizer.convert_tokens_to_ids(char) for byte, char in bytes_to_unicode().items()}

    def of_bytes(*values: int) -> list[int]:
        return [byte_ids[value] for value in values]

    generator = torch.Generator().manual_seed(3)
    return [
        [],
        [eos],
        [eos, eos, *tokenizer(" hello")["input_ids"], eos],
        [*tokenizer("one")["input_ids"], eos, *tokenizer(" two")["input_ids"]],
        *(family[:end] for end in range(1, len(family), 2)),
        *(family[start:] for start in (1, 2, 3)),
        of_bytes(0xE2),
        of_bytes(0xE2, 0x82),
        of_bytes(0xE2, 0x82, 0xAC),
        of_bytes(0xF0, 0x9F, 0x98),
        of_bytes(0xF0, 0x9F, 0x98, 0x41),
        of_bytes(0xE2, 0x82, 0xE2, 0x82, 0xAC),
        of_bytes(0x80),
        of_bytes(0x80, 0x80, 0xBF, 0xC0, 0xAF),
        of_bytes(0xC3, 0x28, 0xA9),
        of_bytes(0xED, 0xA0, 0x80),
        of_bytes(0xF4, 0x90, 0x80, 0x80),
        of_bytes(0xF8, 0xFF, 0xFE),
        of_bytes(0xEF, 0xBB, 0xBF, 0x41),
        of_bytes(0x00, 0x0A, 0x0D, 0x7F),
        [*of_bytes(0xC3), eos, *of_bytes(0xA9)],
        tokenizer(" , . ! ? 's n't do n't")["input_ids"],
        tokenizer("a  b \n\n c")["input_ids"],
        *(random_ids(generator, eos + 1, length) for length in (1, 2, 3, 5, 8, 13, 21, 34, 55)),
    ]


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> dict:
    """The decoded text without special tokens, and the bytes that it came from."""
    byte_of = {char: byte for byte, char in bytes_to_unicode().items()}
    special = set(tokenizer.all_special_ids)
    tokens = tokenizer.convert_ids_to_tokens([token for token in ids if token not in special])
    return {
        "ids": ids,
        "text": tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False),
        "bytes": bytes(byte_of[char] for token in tokens for char in token).hex(),
    }
