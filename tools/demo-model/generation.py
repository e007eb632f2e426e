"""Greedy generation with the base alone or under one prefix, as eval.py and showcase.py need it."""

import torch
from peft import PeftModel
from transformers import AutoTokenizer, GPT2LMHeadModel


def load_tokenizer(base):
    """The base's tokenizer, set to pad on the left as batched generation wants it."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def load_model(base, prefix=None):
    """The base in fp32 (its file is F16), wrapped by the PEFT adapter in folder `prefix` when one is given."""
    model = GPT2LMHeadModel.from_pretrained(base, dtype=torch.float32)
    return (PeftModel.from_pretrained(model, prefix) if prefix else model).eval()


@torch.no_grad()
def answer_greedily(model, tokenizer, prompts, max_new_tokens, batch_size):
    """The stripped greedy answer to each prompt, in the order of the prompts."""
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # less padding in a batch
    answers = [""] * len(prompts)
    for start in range(0, len(by_length), batch_size):
        chosen = by_length[start : start + batch_size]
        encoded = tokenizer([prompts[i] for i in chosen], return_tensors="pt", padding=True)
        generated = model.generate(
            input_ids=encoded["input_ids"],
            attention_mask=encoded["attention_mask"],
            do_sample=False,
            max_new_tokens=max_new_tokens,
            pad_token_id=tokenizer.eos_token_id,
        )
        new_ids = generated[:, encoded["input_ids"].shape[1] :]
        for i, text in zip(chosen, tokenizer.batch_decode(new_ids, skip_special_tokens=True)):
            answers[i] = text.strip()
    return answers
