import t from "tap";
import { baseModelName, baseNameDiffers } from "../../src/prefixes/base-name.ts";

t.test("what a base model is called", async (t) => {
  for (const [text, name] of [
    ["/models/gpt2", "gpt2"],
    ["/models/gpt2/", "gpt2"],
    ["./gpt2", "gpt2"],
    ["../a/gpt2/.", "gpt2"],
    ["gpt2", "gpt2"],
    ["C:\\models\\GPT2\\", "GPT2"],
    ["openai-community/gpt2", "openai-community/gpt2"],
    ["openai-community/gpt2@refs/pr/1", "openai-community/gpt2"],
    ["/home/user@host/gpt2", "gpt2"],
    [
      "/root/.cache/huggingface/hub/models--openai-community--gpt2/snapshots/607a30d783dfa663caf39e06633721c8d4cfcd7e",
      "openai-community/gpt2",
    ],
    ["models--gpt2", "gpt2"],
    ["", null],
    ["/", null],
    [".", null],
    ["..", null],
    ["./", null],
  ] as const)
    t.equal(baseModelName(text), name, text);
});

t.test("names that say the same, and names that do not", async (t) => {
  for (const [named, served] of [
    ["gpt2", "openai-community/gpt2"],
    ["openai-community/GPT2", "gpt2"],
    ["./runs/demo/", "demo"],
    ["prefixd/demo", "demo"],
    ["/hub/models--openai-community--gpt2/snapshots/607a", "gpt2"],
    [null, "gpt2"],
    [undefined, "gpt2"],
    ["", "gpt2"],
    ["./", "gpt2"],
  ] as const)
    t.equal(baseNameDiffers(named, served), null, `${named} ${served}`);
  for (const [named, served] of [
    ["gpt2-medium", "gpt2"],
    ["gpt2", "my-gpt2"],
    ["./other", "demo"],
    ["demo/other", "demo"],
  ] as const) {
    t.equal(
      baseNameDiffers(named, served),
      `The adapter was trained on "${named}" (base_model_name_or_path); the base model served here is "${served}".`,
    );
  }
});
