"""What is trained on the demo base besides prefixd's own prefixes: adapters, its top layers, all of it, or an infix.

Each class has `parameters` (what is trained), `loss(batch)` (mean over the targets) and `generate(prompts, ...)`.
"""

import torch
from torch import nn
from transformers import DynamicCache, GPT2LMHeadModel

from train_prefix import IGNORED_LABEL, collate

BEAMS = 5


class Tuned:
    """The base with some parameters unfrozen."""

    def __init__(self, base: GPT2LMHeadModel) -> None:
        self.model = base.eval()  # no dropout anywhere, as in `prefixd train`
        self.model.requires_grad_(False)
        self.eos = base.config.eos_token_id
        self.parameters: list[nn.Parameter] = []

    def unfreeze(self, *modules: nn.Module) -> None:
        found = {id(parameter): parameter for module in modules for parameter in module.parameters()}
        self.parameters = list(found.values())
        for parameter in self.parameters:
            parameter.requires_grad_(True)

    def loss(self, batch: list) -> torch.Tensor:
        inputs = collate(batch, self.eos)
        labels = inputs.pop("labels")
        return mean_loss(self.model(**inputs).logits[:, :-1], labels[:, 1:])

    def generate(self, prompts: list[list[int]], max_new_tokens: int) -> list[list[int]]:
        ids, mask = left_padded(prompts, self.eos)
        return self.search(ids, mask, max_new_tokens)

    def search(self, ids: torch.Tensor, mask: torch.Tensor, max_new_tokens: int, **state: object) -> list[list[int]]:
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                num_beams=BEAMS,
                do_sample=False,
                max_new_tokens=max_new_tokens,
                pad_token_id=self.eos,
                **state,
            )
        return [until(row, self.eos) for row in output[:, ids.shape[1] :].tolist()]


class Full(Tuned):
    def __init__(self, base: GPT2LMHeadModel) -> None:
        super().__init__(base)
        self.unfreeze(base)


class TopLayers(Tuned):
    """The last `count` blocks and the final norm; embeddings, and so the tied head, stay frozen."""

    def __init__(self, base: GPT2LMHeadModel, count: int) -> None:
        super().__init__(base)
        self.unfreeze(*base.transformer.h[-count:], base.transformer.ln_f)


class Bottleneck(nn.Module):
    """x + up(gelu(down(x))), the identity at first (Houlsby et al. 2019, figure 2)."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, size)
        self.up = nn.Linear(size, width, bias=False)
        nn.init.normal_(self.down.weight, std=0.02)
        nn.init.zeros_(self.down.bias)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.up(nn.functional.gelu(self.down(x)))


class Adapters(Tuned):
    """Two bottlenecks a block: after the attention's and after the MLP's projection, before the residual sum."""

    def __init__(self, base: GPT2LMHeadModel, size: int) -> None:
        super().__init__(base)
        adapters = nn.ModuleList()
        for block in base.transformer.h:
            for projection in (block.attn.c_proj, block.mlp.c_proj):
                adapter = Bottleneck(base.config.n_embd, size)
                projection.register_forward_hook(lambda _module, _inputs, output, adapter=adapter: adapter(output))
                adapters.append(adapter)
        self.unfreeze(adapters)


class Infix(Tuned):
    """Keys and values of `length` tokens between the prompt and its last token, so that the prompt cannot see them.

    As a prefix of `prefixd train` it begins with standard normal values, or as the model reads a text's ids, repeated.
    """

    def __init__(self, base: GPT2LMHeadModel, length: int, init: list[int] | None) -> None:
        super().__init__(base)
        config = base.config
        head = config.n_embd // config.n_head
        if init is None:
            values = torch.randn(config.n_layer, 2, config.n_head, length, head)
        else:
            ids = torch.tensor([(init * length)[:length]])
            with torch.no_grad():
                layers = base(input_ids=ids, use_cache=True).past_key_values.layers
            values = torch.stack([torch.stack([layer.keys[0], layer.values[0]]) for layer in layers])
        self.values = nn.Parameter(values)
        self.parameters = [self.values]

    def loss(self, batch: list) -> torch.Tensor:
        state, mask = self.state([prompt for prompt, _ in batch])
        inputs = collate([(prompt[-1:], answer) for prompt, answer in batch], self.eos)
        mask = torch.cat([mask, inputs["attention_mask"]], dim=1)
        logits = self.model(
            input_ids=inputs["input_ids"],
            attention_mask=mask,
            position_ids=positions(mask)[:, -inputs["input_ids"].shape[1] :],
            past_key_values=state,
        ).logits
        return mean_loss(logits[:, :-1], inputs["labels"][:, 1:])

    def generate(self, prompts: list[list[int]], max_new_tokens: int) -> list[list[int]]:
        with torch.inference_mode():
            state, mask = self.state(prompts, BEAMS)
        last = torch.tensor([[prompt[-1]] for prompt in prompts])
        mask = torch.cat([mask, torch.ones_like(last)], dim=1)
        # generate() skips as many ids as the cache has tokens: what they are does not matter.
        ids = torch.cat([torch.full((len(prompts), mask.shape[1] - 1), self.eos), last], dim=1)
        return self.search(ids, mask, max_new_tokens, past_key_values=state)

    def state(self, prompts: list[list[int]], copies: int = 1) -> tuple[DynamicCache, torch.Tensor]:
        """The cache of the prompts without their last tokens, with the infix behind; and its mask."""
        ids, mask = left_padded([prompt[:-1] for prompt in prompts], self.eos)
        with torch.no_grad():
            seen = self.model(
                input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=True
            ).past_key_values
        state = DynamicCache()
        for index, layer in enumerate(seen.layers):
            both = [
                torch.cat([past, own.expand(len(prompts), -1, -1, -1)], dim=2).repeat_interleave(copies, dim=0)
                for past, own in zip((layer.keys, layer.values), self.values[index], strict=True)
            ]
            state.update(*both, index)
        return state, torch.cat([mask, torch.ones(len(prompts), self.values.shape[3], dtype=mask.dtype)], dim=1)


def build(base: GPT2LMHeadModel, method: str, size: int, init: list[int] | None) -> Tuned:
    match method:
        case "full":
            return Full(base)
        case "top":
            return TopLayers(base, size)
        case "adapter":
            return Adapters(base, size)
        case "infix":
            return Infix(base, size, init)
    raise ValueError(f"no method {method}")


def mean_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED_LABEL)


def left_padded(rows: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    ids = torch.tensor([[pad] * (longest - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(1) - 1).clamp(min=0)


def until(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids
