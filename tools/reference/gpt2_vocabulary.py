"""GPT-2's vocabulary from its merges: `python tools/reference/gpt2_vocabulary.py merges.txt`

merges.txt (vocab.bpe) is that of openai-community/gpt2, MIT licence, Copyright (c) 2019 OpenAI. A merge joins two tokens that came before it,
so the file needs their ids only: 50,000 times two, as unsigned 16-bit little-endian numbers, all first ones and then all second ones, zlib.
Tokens 0 to 255 are single bytes in GPT-2's order; token 50,256 is <|endoftext|>.
"""

import struct
import sys
import zlib
from pathlib import Path

OUT = Path(__file__).resolve().parents[2] / "test/golden/gpt2-merges.zlib"


def byte_names():
    """GPT-2's character for each byte, in the order of their ids."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return [*map(chr, shown), *(chr(256 + index) for index in range(len(hidden)))]


def main(path):
    ids = {name: id for id, name in enumerate(byte_names())}
    pairs = []
    for line in Path(path).read_text("utf-8").splitlines():
        if line.startswith("#version") or not line:
            continue
        first, second = line.split(" ")
        pairs.append((ids[first], ids[second]))
        ids[first + second] = len(ids)
    assert len(pairs) == 50_000 and len(ids) == 50_256
    columns = [first for first, _ in pairs] + [second for _, second in pairs]
    OUT.write_bytes(zlib.compress(struct.pack(f"<{len(columns)}H", *columns), 9))


main(sys.argv[1])
