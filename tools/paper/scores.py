"""The metrics of the E2E challenge, each by a maintained package.

BLEU: sacrebleu. NIST and METEOR: nltk (its METEOR has other weights than METEOR 1.5, which the paper used). ROUGE-L:
torchmetrics, the best reference of each row. CIDEr: pycocoevalcap, where it is installed (else the score is missing).
NIST, METEOR and CIDEr see sacrebleu's 13a tokens in lower case.
"""

import atexit
import shutil
import tempfile
from pathlib import Path

import nltk.data
import sacrebleu
from nltk.translate.meteor_score import meteor_score
from nltk.translate.nist_score import corpus_nist
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a
from torchmetrics.functional.text.rouge import rouge_score

try:
    from pycocoevalcap.cider.cider import Cider
except ImportError:
    Cider = None

DEBIAN_WORDNET = Path("/usr/share/wordnet")
LEXICOGRAPHER_FILES = 45


def score(answers: list[str], references: list[list[str]]) -> dict[str, float]:
    """BLEU, METEOR and ROUGE-L from 0 to 100; NIST and CIDEr as they are."""
    most = max(map(len, references))
    columns = [[row[i] if i < len(row) else None for row in references] for i in range(most)]
    said = [tokens(answer) for answer in answers]
    wanted = [[tokens(text) for text in row] for row in references]
    best = [max(meteor_score([one], answer) for one in row) for row, answer in zip(wanted, said)]
    scores = {
        "bleu": sacrebleu.corpus_bleu(answers, columns).score,
        "nist": corpus_nist(wanted, said),
        "meteor": 100 * sum(best) / len(best),
        "rougeL": 100 * rouge_score(answers, references, rouge_keys="rougeL")["rougeL_fmeasure"].item(),
    }
    if Cider is not None:
        rows = {i: [" ".join(one) for one in row] for i, row in enumerate(wanted)}
        scores["cider"] = float(Cider().compute_score(rows, {i: [" ".join(one)] for i, one in enumerate(said)})[0])
    return scores


def tokens(text: str) -> list[str]:
    return Tokenizer13a()(text).lower().split()


def find_wordnet() -> None:
    """nltk's own data if it is there, else Debian's packages wordnet-base and wordnet-sense-index."""
    try:
        nltk.data.find("corpora/wordnet")
    except LookupError:
        folder = Path(tempfile.mkdtemp(prefix="nltk-data-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        # A copy: nltk follows no link out of the folder.
        copy = shutil.copytree(DEBIAN_WORDNET, folder / "corpora" / "wordnet")
        # nltk wants the lexicographer files' names, which Debian leaves out and METEOR does not use.
        (copy / "lexnames").write_text("".join(f"{i:02} file{i:02} 1\n" for i in range(LEXICOGRAPHER_FILES)))
        nltk.data.path.append(str(folder))


find_wordnet()
