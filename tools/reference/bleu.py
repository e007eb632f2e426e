"""Corpus BLEU by sacrebleu, of invented answers with one or several references."""

import random
from pathlib import Path

from sacrebleu.metrics import BLEU
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

from common import write_json

WORDS = "the a mill is cheap place near river, rated 5 out of 5. serves food Italian high-priced $20 and it's".split()
TEXTS = [
    "Hello, world.",
    "It costs $1,234.50 (or 12-15 more) - really?!",
    "a_b [c] {d} ~e~ `f` x/y \"quoted\" 'single' &amp; &lt;tag&gt; &quot;q&quot;",
    "caf\u00e9 \u65e5\u672c. \U0001f600, \U0001f602. 3.5-inch e.g. U.S.A. 1.",
    "line-\nbreak and\nanother <skipped>one  two\tthree ",
    "",
    ".",
    "...and, 5. 6, 7-8 -9",
]


def write_bleu(path: Path) -> int:
    """Write bleu.json and return the number of corpora."""
    draw = random.Random(17)
    corpora = [_corpus(draw, rows, share) for rows, share in ((40, 0.2), (25, 0.6), (3, 0.5), (1, 0.9), (12, 0.0), (2, 1.0))]
    corpora += [
        {"answers": TEXTS, "references": [[text.replace("e", "a"), text] for text in TEXTS]},
        {"answers": ["one two three four five", "six"], "references": [["one two four three five"], ["six seven", "x"]]},
        {"answers": ["a b c"], "references": [["a b c"]]},
        {"answers": ["one two three four"], "references": [["one x three y", "two"]]},
    ]
    for corpus in corpora:
        corpus["bleu"] = _score(corpus["answers"], corpus["references"])
    tokenizer = Tokenizer13a()
    tokens = [{"text": text, "tokens": tokenizer(text.rstrip()).split()} for text in TEXTS]
    write_json(path, {"tokens": tokens, "corpora": corpora})
    return len(corpora)


def _corpus(draw: random.Random, rows: int, share: float) -> dict:
    """Sentences, and references that differ from them in this share of the words."""
    answers, references = [], []
    for _ in range(rows):
        words = draw.choices(WORDS, k=draw.randint(4, 16))
        answers.append(" ".join(words))
        references.append([" ".join(_changed(draw, words, share)) for _ in range(draw.randint(1, 4))])
    return {"answers": answers, "references": references}


def _changed(draw: random.Random, words: list[str], share: float) -> list[str]:
    changed = [draw.choice(WORDS) if draw.random() < share else word for word in words]
    return changed[: len(changed) - draw.randint(0, 2)] + draw.choices(WORDS, k=draw.randint(0, 2))


def _score(answers: list[str], references: list[list[str]]) -> float:
    """sacrebleu wants a list of references for each place, with None where a row has fewer."""
    most = max(map(len, references))
    columns = [[row[place] if place < len(row) else None for row in references] for place in range(most)]
    return BLEU().corpus_score(answers, columns).score
