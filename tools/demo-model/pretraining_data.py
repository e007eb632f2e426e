"""Pre-training windows: token sequences of one length, with a loss weight per token.

Three kinds of window:

  text      general text, documents ended by <|endoftext|>
  tagged    examples of all operations mixed:      "<tag>\\n<input>\\n=> <target><|endoftext|>"
  untagged  one operation for the whole window:    "<input>\\n=> <target><|endoftext|>"

An operation is a real task (a data set) or a simple one made up from the same inputs: echo, lower, title, first, last.
In untagged windows "echo the input" is the most frequent operation, on the inputs of the real tasks too. So the base
alone cannot know which task is meant: a prefix has to say so.
"""

import lzma
import random
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from tasks import END_OF_TEXT, SEPARATOR, read_rows

# Characters used of each general text; a file smaller than its budget is used at most twice.
TEXT_CHARACTERS = {
    "stories_ccby_pd": 1.2e6,
    "dialog_ccbysa": 6e6,
    "wiki_ccbysa": 1.5e6,
    "edu_ccby_pd": 1.5e6,
    "books_pd": 14e6,
}

# Shares of the operations among real tasks and among simple operations.
REAL_SHARES = {"datenorm": 0.12, "truecase": 0.24, "e2e": 0.20, "intent": 0.11, "sgd_nlg": 0.23, "sgd_slots": 0.10}
SIMPLE_SHARES = {"echo": 0.50, "lower": 0.15, "title": 0.15, "first": 0.10, "last": 0.10}
REAL_SHARE_TAGGED = 0.85
REAL_SHARE_UNTAGGED = 0.35

TAGS = {
    "datenorm": "Write the date as ISO.",
    "truecase": "Restore case and punctuation.",
    "e2e": "Describe the place.",
    "intent": "Name the intent.",
    "sgd_nlg": "Say this to the user.",
    "sgd_slots": "List the dialogue acts.",
    "echo": "Repeat.",
    "lower": "Write in lower case.",
    "title": "Write in title case.",
    "first": "First word.",
    "last": "Last word.",
}

SIMPLE_OPERATIONS = {
    "echo": lambda text: text,
    "lower": str.lower,
    "title": str.title,
    "first": lambda text: text.split()[0],
    "last": lambda text: text.split()[-1],
}

TOKENIZER_ROWS_PER_TASK = 8000
TOKENIZER_DOCUMENTS = 3000
SIMPLE_INPUTS_PER_TASK = 6000
SIMPLE_INPUTS_FROM_TARGETS = 12000
SIMPLE_EXAMPLES = 24000


def sample_up_to(rng, items, count):
    return rng.sample(items, min(count, len(items)))


def pick(rng, shares):
    return rng.choices(list(shares), list(shares.values()))[0]


def read_documents(corpora, seed):
    """A shuffled list of documents, TEXT_CHARACTERS of each file."""
    rng = random.Random(seed)
    chosen = []
    for name, budget in TEXT_CHARACTERS.items():
        with lzma.open(Path(corpora) / "pretrain" / f"{name}.txt.xz", "rt", encoding="utf-8") as file:
            documents = file.read().split("\n\n")
        rng.shuffle(documents)
        characters = 0
        for document in documents + documents:
            if characters >= budget:
                break
            chosen.append(document.strip())
            characters += len(chosen[-1])
    rng.shuffle(chosen)
    return chosen


def train_tokenizer(texts, vocab_size):
    """Byte-level BPE as in GPT-2; end-of-text has the last id, as there."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size - 1, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([END_OF_TEXT])
    return tokenizer


class ExamplePools:
    """For every operation a shuffled list of (input ids, " " + target ids), walked round and round."""

    def __init__(self, pairs_by_operation, encode, rng):
        self._examples = {}
        for operation, pairs in pairs_by_operation.items():
            inputs = encode([source for source, _ in pairs])
            targets = encode([" " + target for _, target in pairs])
            self._examples[operation] = list(zip(inputs, targets))
        for examples in self._examples.values():
            rng.shuffle(examples)
        self._cursor = dict.fromkeys(self._examples, 0)

    def next(self, operation):
        examples = self._examples[operation]
        self._cursor[operation] += 1
        return examples[self._cursor[operation] % len(examples)]


def build_windows(args):
    """(tokenizer, ids [windows, T], loss weights [windows, T]) from `args` of train_base.py."""
    rng = random.Random(args.seed)
    documents = read_documents(args.corpora, args.seed)
    real_pairs = {
        task: [(row["input"].strip(), row["target"].strip()) for row in read_rows(args.corpora, task, "train")]
        for task in REAL_SHARES
    }
    # The shipped base was made after one draw that served nothing; repeating it gives its tokenizer and windows.
    for pairs in real_pairs.values():
        sample_up_to(rng, pairs, TOKENIZER_ROWS_PER_TASK)

    task_texts = [
        f"{source}{SEPARATOR} {target}"
        for pairs in real_pairs.values()
        for source, target in sample_up_to(rng, pairs, TOKENIZER_ROWS_PER_TASK)
    ]
    tokenizer = train_tokenizer(task_texts + sample_up_to(rng, documents, TOKENIZER_DOCUMENTS), args.vocab)

    def encode(texts):
        return [encoding.ids for encoding in tokenizer.encode_batch(texts)]

    pools = ExamplePools(real_pairs | simple_pairs(real_pairs, rng), encode, rng)
    end_of_text = tokenizer.token_to_id(END_OF_TEXT)
    stream = [i for ids in encode(documents) for i in [*ids, end_of_text]]
    print(f"{len(stream)} text tokens, {len(stream) / sum(map(len, documents)):.3f} per character", flush=True)

    ids, weights = fill_windows(args, rng, pools, stream, encode, end_of_text)
    order = list(range(len(ids)))
    rng.shuffle(order)
    id_type = np.int16 if args.vocab <= np.iinfo(np.int16).max else np.int32
    return (
        tokenizer,
        torch.tensor(np.array(ids, dtype=id_type))[order],
        torch.tensor(np.array(weights, dtype=np.float32))[order],
    )


def simple_pairs(real_pairs, rng):
    """Pairs of the simple operations, on inputs (and some targets) of the real tasks."""
    sources = [
        source for pairs in real_pairs.values() for source, _ in sample_up_to(rng, pairs, SIMPLE_INPUTS_PER_TASK)
    ]
    sentences = real_pairs["truecase"] + real_pairs["e2e"]
    sources += [target for _, target in sample_up_to(rng, sentences, SIMPLE_INPUTS_FROM_TARGETS)]
    return {
        name: [(source, operation(source)) for source in sample_up_to(rng, sources, SIMPLE_EXAMPLES)]
        for name, operation in SIMPLE_OPERATIONS.items()
    }


def fill_windows(args, rng, pools, stream, encode, end_of_text):
    """args.windows lists of args.T ids, and as many lists of loss weights."""
    length = args.T
    separator = encode([SEPARATOR])[0]
    tag_ids = {operation: encode([tag + "\n"])[0] for operation, tag in TAGS.items()}
    all_ids, all_weights = [], []
    position = 0
    for _ in range(args.windows):
        kind = rng.random()
        if kind < args.p_text:
            if position + length > len(stream):
                position = rng.randrange(length)
            all_ids.append(stream[position : position + length])
            all_weights.append([1.0] * length)
            position += length
            continue

        tagged = kind < args.p_text + args.p_tagged
        operation = pick_operation(rng, REAL_SHARE_UNTAGGED)
        ids, weights = [], []
        while len(ids) < length:
            if tagged:
                operation = pick_operation(rng, REAL_SHARE_TAGGED)
            source, target = pools.next(operation)
            prompt = (tag_ids[operation] if tagged else []) + source + separator
            ids += [*prompt, *target, end_of_text]
            weights += [args.input_weight] * len(prompt) + [1.0] * (len(target) + 1)
        all_ids.append(ids[:length])
        all_weights.append(weights[:length])
    return all_ids, all_weights


def pick_operation(rng, real_share):
    return pick(rng, REAL_SHARES if rng.random() < real_share else SIMPLE_SHARES)
