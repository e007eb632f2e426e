/** Log probabilities of prompt tokens equal those of one forward pass of transformers and PEFT, in any batch. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import type { Engine } from "../../src/engine/engine.ts";
import type { EngineRequest, PromptScore } from "../../src/engine/request.ts";
import type { KvTensor } from "../../src/kv.ts";
import { engineRequest, goldenDir, goldenModels, openTestModel } from "../support/model.ts";
import { Recording } from "../support/recording.ts";

const TOLERANCE = 2e-3;

/** tools/reference/README.md describes the fields. */
interface PromptCase {
  readonly adapter: string | null;
  readonly prompt_ids: number[];
  readonly token_logprobs: number[];
  readonly top_logprobs: [number, number][][];
}

interface Scored {
  readonly prompt: readonly PromptScore[] | null;
  readonly ids: number[][];
  readonly logprobs: number[];
}

async function run(engine: Engine, request: EngineRequest): Promise<Scored> {
  const recording = new Recording(engine, request);
  await recording.ended;
  return { prompt: recording.prompt, ids: recording.ids, logprobs: recording.tokens.map(({ logprob }) => logprob) };
}

for (const name of goldenModels()) {
  t.test(name, async (t) => {
    const model = await openTestModel(goldenDir(name), { prefillChunk: 8 });
    t.teardown(() => model.close());
    const { cases } = JSON.parse(readFileSync(join(goldenDir(name), "prompt-cases.json"), "utf8")) as {
      cases: PromptCase[];
    };
    const prefixes = new Map<string | null, KvTensor | null>([[null, null]]);
    for (const { adapter } of cases)
      if (!prefixes.has(adapter))
        prefixes.set(adapter, await model.adapter(join(goldenDir(name), "adapters", adapter!)));
    const requests = cases.map((item) =>
      engineRequest({
        promptIds: Int32Array.from(item.prompt_ids),
        prefix: prefixes.get(item.adapter)!,
        maxNewTokens: 4,
        topLogprobs: 3,
        scorePrompt: true,
      }),
    );
    const alone: Scored[] = [];
    for (const request of requests) alone.push(await run(model.engine, request));

    for (const [index, { adapter, prompt_ids, token_logprobs, top_logprobs }] of cases.entries()) {
      const what = `${adapter ?? "base"}, ${prompt_ids.length} tokens`;
      const [first, ...rest] = alone[index]!.prompt!;
      t.same(first, { id: prompt_ids[0], logprob: null, top: [] }, what);
      t.same(
        rest.map(({ id }) => id),
        prompt_ids.slice(1),
        what,
      );
      t.same(
        rest.map(({ top }) => top.map(({ id }) => id)),
        top_logprobs.map((top) => top.map(([id]) => id)),
        `${what}: the likeliest in their places`,
      );
      const worst = Math.max(0, ...rest.map(({ logprob }, at) => Math.abs(logprob! - token_logprobs[at]!)));
      t.ok(worst < TOLERANCE, `${what}: within ${TOLERANCE} (${worst.toExponential(1)})`);
    }
    t.same(await Promise.all(requests.map((request) => run(model.engine, request))), alone, "together: the same bits");
    const unscored = await Promise.all(
      requests.map((request) => run(model.engine, { ...request, scorePrompt: false })),
    );
    t.same(
      unscored.map(({ ids, logprobs }) => [ids, logprobs]),
      alone.map(({ ids, logprobs }) => [ids, logprobs]),
      "what is generated does not depend on it",
    );
  });
}
