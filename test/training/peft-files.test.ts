/** Adapters as we write them: PEFT loads them and generates what we do. UPDATE_GOLDEN=1 writes those that PEFT is given. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { splitHeads } from "../../src/prefixes/peft-layout.ts";
import { peftFiles } from "../../src/prefixes/peft-files.ts";
import { engineRequest, goldenDir, openTestModel, submit } from "../support/model.ts";
import { goldenTraining, TRAINING_GOLDEN } from "../support/training.ts";

const KINDS = ["prefix", "prefix-network", "prompt"] as const;
const { document, tensor } = goldenTraining<{ model: string; virtual_tokens: number; hidden: number }>("curves");
const dir = goldenDir(document.model);
const folderOf = (kind: string): string => join(TRAINING_GOLDEN, "trained", kind);

t.test("the files are those that PEFT was given", async (t) => {
  const checkpoint = await openCheckpoint(dir);
  t.teardown(() => checkpoint.close());
  const { shape, fingerprint } = checkpoint;
  for (const kind of KINDS) {
    const rows = tensor(`${kind}/saved`);
    const kv = new Float32Array(rows.length);
    if (kind !== "prompt") splitHeads(rows, 0, kv, document.virtual_tokens, shape);
    const files = peftFiles({
      kind: kind === "prompt" ? "prompt" : "prefix",
      values: kind === "prompt" ? rows : kv,
      virtualTokens: document.virtual_tokens,
      shape,
      baseName: document.model,
      fingerprint,
      hidden: kind === "prefix-network" ? document.hidden : null,
    });
    for (const [name, content] of files) {
      const path = join(folderOf(kind), name);
      if (process.env["UPDATE_GOLDEN"] === "1") {
        mkdirSync(folderOf(kind), { recursive: true });
        writeFileSync(path, content);
      }
      t.ok(readFileSync(path).equals(content), `${kind}/${name}`);
    }
  }
});

t.test("PEFT's tokens with them are ours", async (t) => {
  const golden = JSON.parse(readFileSync(join(TRAINING_GOLDEN, "generations.json"), "utf8")) as {
    cases: { kind: string; prompt_ids: number[]; token_ids: number[] }[];
  };
  t.same(new Set(golden.cases.map(({ kind }) => kind)), new Set(KINDS));
  const model = await openTestModel(dir, { slots: 4 });
  t.teardown(() => model.close());
  for (const { kind, prompt_ids, token_ids } of golden.cases) {
    const [choice] = await submit(
      model.engine,
      engineRequest({
        promptIds: Int32Array.from(prompt_ids),
        prefix: await model.adapter(folderOf(kind)),
        maxNewTokens: 16,
        eosIds: model.config.eosIds,
      }),
    ).done;
    t.same(choice!.ids, token_ids, `${kind}, ${prompt_ids.length} tokens`);
  }
});
