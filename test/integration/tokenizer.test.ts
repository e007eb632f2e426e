/** The real server with a tokenizer that puts BOS before prompts and has a token without an embedding. */
import { cpSync, symlinkSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import t from "tap";
import { startServerProcess, temporaryFolder } from "../support/server.ts";
import { makeTokenizerFolder } from "../text/tokenizer-folders.ts";

const EOT = "<|endoftext|>";
const special = (id: number, content: string): object => ({ id, content, special: true });

const folder = temporaryFolder();
t.teardown(() => folder.remove());
await makeTokenizerFolder(folder.path, {
  layout: "new",
  patch: [
    [["added_tokens"], [special(4095, EOT), special(4096, "[PAD]")]],
    [
      ["post_processor"],
      {
        type: "TemplateProcessing",
        single: [{ SpecialToken: { id: EOT, type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
        pair: [],
        special_tokens: { [EOT]: { id: EOT, ids: [4095], tokens: [EOT] } },
      },
    ],
  ],
});
for (const name of ["config.json", "generation_config.json"])
  cpSync(join("models/demo", name), join(folder.path, name));
symlinkSync(resolve("models/demo/model.safetensors"), join(folder.path, "model.safetensors"));
writeFileSync(
  join(folder.path, "tokenizer_config.json"),
  JSON.stringify({ tokenizer_class: "GPT2Tokenizer", pad_token: "[PAD]" }),
);

t.test("prompts get BOS; a token without an embedding is reported at the start and refused in requests", async (t) => {
  const server = await startServerProcess([
    "--model",
    folder.path,
    "--cache-dir",
    join(folder.path, "cache"),
    "--store",
    `lmdb:${join(folder.path, "store")}`,
  ]);
  t.teardown(() => server.signal("SIGKILL"));
  const warnings = server.log.filter(({ level, tokens }) => level === "warn" && tokens !== undefined);
  t.match(warnings, [{ count: 1, tokens: [{ id: 4096, token: "[PAD]" }], vocab_size: 4096, msg: /no embedding/ }]);
  t.equal(warnings.length, 1);
  t.match(await (await fetch(`${server.url}/model`)).json(), {
    vocab_size: 4096,
    special_tokens: { before: [4095], after: [] },
  });

  const ask = { max_new_tokens: 8, echo: true, return_token_ids: true };
  const asText = await server.json("/generate", { ...ask, prompt: "Hello" });
  t.same(asText.body.choices[0]!.token_ids.slice(0, 4), [4095, 39, 542, 78]);
  t.match(asText.body.choices[0]!.text, /^Hello/);
  t.equal(asText.body.usage.prompt_tokens, 4);
  const asIds = await server.json("/generate", { ...ask, prompt: [4095, 39, 542, 78] });
  t.same(asText.body.choices, asIds.body.choices);
  const without = await server.json("/generate", { ...ask, prompt: "Hello", add_special_tokens: false });
  t.same(without.body.choices[0]!.token_ids.slice(0, 3), [39, 542, 78]);

  for (const prompt of ["a [PAD]", [4096]])
    t.match(await server.json("/generate", { prompt }), { status: 400, body: { code: "invalid_token_id" } });
  t.equal((await server.json("/generate", { prompt: "a" })).status, 200, "the server goes on");
});
