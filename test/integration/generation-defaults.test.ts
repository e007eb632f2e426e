/** With defaults in generation_config.json, the real model answers as transformers and PEFT do with the same file. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { GenerationService } from "../../src/generation/service.ts";
import { generationDefaults } from "../../src/http/generate/defaults.ts";
import { REQUEST_NAMES } from "../../src/http/generate/defaults-schema.ts";
import type { KvTensor } from "../../src/kv.ts";
import { parseGpt2Config } from "../../src/model/checkpoint-config.ts";
import type { PrefixKey } from "../../src/prefixes/store.ts";
import { loadTokenizer } from "../../src/text/tokenizer.ts";
import { buildTestApp, post } from "../support/app.ts";
import { openTestModel } from "../support/model.ts";

t.setTimeout(300_000);

interface Case {
  readonly generation_config: Readonly<Record<string, unknown>>;
  readonly prefix: string | null;
  readonly prompt: string;
  readonly request: Readonly<Record<string, unknown>>;
  readonly token_ids: readonly (readonly number[])[];
  readonly scores?: readonly number[];
}

interface Answer {
  readonly choices: readonly {
    readonly token_ids: readonly number[];
    readonly text: string;
    readonly score?: number;
  }[];
}

const DEMO = "models/demo";
const { cases } = JSON.parse(readFileSync("test/golden/generation-defaults.json", "utf8")) as {
  cases: readonly Case[];
};

const renamed = (fields: Readonly<Record<string, unknown>>): Record<string, unknown> =>
  Object.fromEntries(
    Object.entries(fields).map(([name, value]) => [
      Object.hasOwn(REQUEST_NAMES, name) ? REQUEST_NAMES[name as keyof typeof REQUEST_NAMES] : name,
      value,
    ]),
  );

t.test("answers are transformers' and PEFT's", async (t) => {
  const model = await openTestModel(DEMO, { slots: 8 });
  const { shape } = model.runner;
  const tokenizer = await loadTokenizer(DEMO, shape.vocabSize);
  const config = JSON.parse(readFileSync(join(DEMO, "config.json"), "utf8")) as object;
  const adapters = new Map<string, KvTensor>();
  for (const name of new Set(cases.flatMap(({ prefix }) => prefix ?? [])))
    adapters.set(name, await model.adapter(join("prefixes", name)));
  const prefixes = { resolve: (key: PrefixKey) => Promise.resolve({ key, digest: "d", kv: adapters.get(key.name)! }) };
  try {
    for (const [
      index,
      { generation_config: file, prefix, prompt, request, token_ids, scores = [] },
    ] of cases.entries()) {
      await t.test(
        `${index}: ${JSON.stringify({ ...file, bos_token_id: undefined, pad_token_id: undefined, request })}`,
        async (t) => {
          const { eosIds } = parseGpt2Config(config, file);
          const generation = new GenerationService({
            engine: model.engine,
            prefixes,
            tokenizer,
            positions: shape.positions,
            eosIds,
            allowBaseModel: true,
            metrics: { request() {} },
          });
          const defaults = generationDefaults(file, { vocabSize: shape.vocabSize, maxN: 8 });
          const { fastify } = await buildTestApp(t, { generation, tokenizer, shape, defaults });
          const ask = async (body: object): Promise<Answer> => {
            const response = await fastify.inject(
              post("/generate", { prompt, prefix_id: prefix, return_token_ids: true, ...body }),
            );
            t.equal(response.statusCode, 200, response.payload.slice(0, 200));
            return response.json<Answer>();
          };
          const { choices } = await ask(renamed(request));
          t.same(
            choices.map((choice) => choice.token_ids),
            token_ids,
          );
          for (const [at, score] of scores.entries())
            t.ok(
              Math.abs(choices[at]!.score! - score) < 1e-4 * Math.abs(score),
              `score ${choices[at]!.score} is ${score}`,
            );
          if (defaults.stop !== undefined)
            t.equal(
              choices[0]?.text,
              tokenizer.decode(token_ids[0]!.slice(0, -1)),
              "the text ends before the stop string",
            );
        },
      );
    }
  } finally {
    await model.close();
  }
});
