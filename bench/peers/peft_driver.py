"""Hugging Face transformers + PEFT as one of the engines that are compared; see protocol.ts for the lines and the names.

    python bench/peers/peft_driver.py CHECKPOINT [DEVICE [DTYPE]]

What its users call: generate() of a PeftModel with prefix tuning. A logits processor notes the time of every step, so a decode step
is measured without the prompt's. A batch can have one prefix only: different prefixes run one after the other.
"""

import os
import statistics
import sys
import time

THREADS = 2
CONTEXT, UNCOUNTED, PROMPT = 80, 2, 8
PREFIXES = 32
# Of the 32 prefixes, one after the other, this many a turn: all cost the same.
PREFIXES_A_TURN = 4

os.environ.setdefault("OMP_NUM_THREADS", str(THREADS))
os.environ["HF_HUB_OFFLINE"] = "1"

import torch  # noqa: E402
from peft import PeftModel, PrefixTuningConfig, TaskType, get_peft_model  # noqa: E402
from transformers import GPT2LMHeadModel, LogitsProcessor, LogitsProcessorList  # noqa: E402


class Clock(LogitsProcessor):
    """Times at which the logits of each step were there."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if scores.is_cuda:
            torch.cuda.synchronize()
        self.times.append(time.perf_counter())
        return scores


class Driver:
    def __init__(self, checkpoint: str, device: str, dtype: str) -> None:
        torch.set_num_threads(THREADS)
        torch.manual_seed(0)
        self.device = device
        self.base = GPT2LMHeadModel.from_pretrained(checkpoint, dtype=getattr(torch, dtype)).to(device).eval()
        self.models: dict[tuple[int, int], PeftModel] = {}
        self.next_prefix = 0

    def model(self, length: int, prefixes: int = 1) -> PeftModel:
        """The base with random prefixes of `length` tokens, named by their numbers."""
        key = (length, prefixes)
        if key not in self.models:
            config = PrefixTuningConfig(task_type=TaskType.CAUSAL_LM, num_virtual_tokens=length, inference_mode=True)
            model = get_peft_model(self.base, config, adapter_name="0")
            for number in range(1, prefixes):
                model.add_adapter(str(number), config)
            self.models[key] = model.to(self.device).eval()
        return self.models[key]

    def generate(self, model: PeftModel, rows: int, prompt: int, tokens: int) -> list[float]:
        """Times from the start to each token."""
        clock = Clock()
        ids = torch.randint(0, self.base.config.vocab_size - 1, (rows, prompt), device=self.device)
        started = time.perf_counter()
        with torch.inference_mode():
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=tokens,
                min_new_tokens=tokens,
                do_sample=False,
                pad_token_id=self.base.config.eos_token_id,
                logits_processor=LogitsProcessorList([clock]),
            )
        return [at - started for at in clock.times]

    def decode(self, rows: int, units: int, context: int = CONTEXT) -> float:
        model = self.model(context - PROMPT - UNCOUNTED - units // 2)
        times = self.generate(model, rows, PROMPT, UNCOUNTED + units + 1)[UNCOUNTED:]
        return statistics.median(later - sooner for sooner, later in zip(times, times[1:])) * units

    def decode_different(self, units: int) -> float:
        """A unit is one token of each of 32 requests, each with its own prefix, one request after the other."""
        model = self.model(CONTEXT - PROMPT - UNCOUNTED - units // 2, PREFIXES)
        seconds = 0.0
        for _ in range(PREFIXES_A_TURN):
            model.set_adapter(str(self.next_prefix))
            self.next_prefix = (self.next_prefix + 1) % PREFIXES
            times = self.generate(model, 1, PROMPT, UNCOUNTED + units + 1)[UNCOUNTED:]
            seconds += statistics.median(later - sooner for sooner, later in zip(times, times[1:])) * units
        return seconds * PREFIXES / PREFIXES_A_TURN

    def prefill(self, tokens: int, units: int) -> float:
        model = self.model(10)
        times = [self.generate(model, 1, tokens, 1)[0] for _ in range(1 + units)]
        return statistics.median(times[1:]) * units

    def run(self, work: str, units: int) -> float:
        kind, size, *rest = work.split("-")
        if kind == "prefill":
            return self.prefill(int(size), units)
        if rest and rest[0] == "different":
            return self.decode_different(units)
        # decode-R or decode-R-CONTEXT
        return self.decode(int(size), units, int(rest[0]) if rest else CONTEXT)


def main() -> None:
    # Libraries print; the protocol's lines alone go to standard output.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    checkpoint = sys.argv[1]
    device = sys.argv[2] if len(sys.argv) > 2 else "cpu"
    dtype = sys.argv[3] if len(sys.argv) > 3 else "float32"
    driver = Driver(checkpoint, device, dtype)
    print("ready decode-1 decode-8 decode-32 decode-32-different prefill-64 prefill-256", file=answers, flush=True)
    for line in sys.stdin:
        _, work, units = line.split()
        try:
            print(driver.run(work, int(units)), file=answers, flush=True)
        except Exception as error:  # noqa: BLE001: told to the bench, which stops
            print("error", " ".join(str(error).split()), file=answers, flush=True)


if __name__ == "__main__":
    main()
