"""Asks a server as lm-evaluation-harness does: `lm-eval.py URL MODEL TOKENIZER`, with pairs of context and continuation as JSON on standard input. Prints, for each
way to send them, log likelihoods, whether each is the likeliest continuation, and generated lines."""
import json
import sys

from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalCompletionsAPI

url, model, tokenizer = sys.argv[1:]
pairs = json.load(sys.stdin)


def instances(kind, arguments):
    return [Instance(kind, {}, one, index) for index, one in enumerate(arguments)]


own = {"tokenizer": tokenizer}
for batch, concurrent, tokens in ((1, 1, own), (len(pairs), 1, own), (1, len(pairs), own), (1, 1, {})):
    lm = LocalCompletionsAPI(
        base_url=f"{url}/v1/completions",
        model=model,
        max_length=256,
        batch_size=batch,
        num_concurrent=concurrent,
        **tokens,
    )
    until = {"until": ["\n"], "max_gen_toks": 16}
    scores = lm.loglikelihood(instances("loglikelihood", [tuple(pair) for pair in pairs]))
    lines = lm.generate_until(instances("generate_until", [(context, dict(until)) for context, _ in pairs]))
    print(json.dumps({"scores": scores, "lines": lines}))
