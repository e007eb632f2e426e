/**
 * Greedy generation against PEFT's `generate()`, token for token, with all prefixes of a model mixed in one running
 * batch.
 */
import { join } from "node:path";
import type { Test } from "tap";
import type { KvTensor } from "../../src/kv.ts";
import { effort } from "./effort.ts";
import { samplingOf } from "./golden-parameters.ts";
import {
  engineRequest,
  goldenCases,
  goldenDir,
  openTestModel,
  seededRandom,
  submit,
  type GoldenCase,
  type TestModel,
  type TestModelOptions,
} from "./model.ts";

/**
 * Minimum gap between the two best scores of every step, so that rounding cannot decide: tools/reference makes no
 * closer cases.
 */
const LEAST_MARGIN = 0.02;
const LOGPROB_TOLERANCE = 2e-3;

export interface ParityOptions extends TestModelOptions {
  /** How often each case runs; default 2, in the short form 1. */
  readonly times?: number;
}

export async function checkParity(t: Test, name: string, options: ParityOptions = {}): Promise<void> {
  const model = await openTestModel(goldenDir(name), { prefillChunk: 8, ...options });
  t.teardown(() => model.close());
  await checkParityOf(t, model, name, { times: options.times ?? effort({ short: 1, long: 2 }) });
}

interface CaseOptions {
  readonly times: number;
  /** 3: each third case, for devices that are slow. */
  readonly every?: number;
  /** How far log probabilities may be off. Tokens count up to the first that was chosen by less than twice as much. */
  readonly within?: number;
}

/** The same on an opened model. */
export async function checkParityOf(
  t: Test,
  model: TestModel,
  name: string,
  { times, every = 1, within = LOGPROB_TOLERANCE }: CaseOptions,
): Promise<void> {
  const { eosId, cases: all } = goldenCases(name);
  const cases = all.filter((_, index) => index % every === 0);
  const prefixes = await compile(model, name, cases);

  // Random order, so rows join, leave and move while others run.
  const random = seededRandom(1);
  const order = Array.from({ length: times }, () => cases)
    .flat()
    .map((item) => ({ item, key: random() }))
    .sort((a, b) => a.key - b.key);
  const results = await Promise.all(
    order.map(async ({ item }) => {
      const request = engineRequest({
        promptIds: Int32Array.from(item.prompt_ids),
        prefix: prefixes.get(prefixName(item)) ?? null,
        maxNewTokens: item.max_new_tokens,
        sampling: samplingOf(item, item.max_new_tokens),
        topLogprobs: 5,
        eosIds: [eosId],
      });
      return { item, choice: (await submit(model.engine, request).done)[0]! };
    }),
  );

  t.equal(results.length, order.length);
  for (const { item, choice } of results) {
    t.ok(
      item.margins.length === item.token_ids.length && Math.min(...item.margins) >= LEAST_MARGIN,
      `${item.id}: rounding decides nothing`,
    );
    const close = item.margins.findIndex((margin) => margin < 2 * within);
    const steps = close < 0 ? item.token_ids.length : close;
    t.same(choice.ids.slice(0, steps), item.token_ids.slice(0, steps), `${item.id}: tokens`);
    if (close < 0) t.equal(choice.reason, item.finish_reason, `${item.id}: finish reason`);
    const worst = Math.max(
      ...item.token_logprobs.slice(0, steps).map((expected, step) => Math.abs(expected - choice.logprobs[step]!)),
    );
    t.ok(worst < within, `${item.id}: logprobs within ${within} (${worst.toExponential(1)})`);
    const expected = item.top_logprobs.map(([, logprob]) => logprob);
    const top = choice.top[0]!;
    t.ok(
      top.length === expected.length && top.every(({ logprob }, rank) => Math.abs(logprob - expected[rank]!) < within),
      `${item.id}: log probabilities of the five likeliest`,
    );
    const ids = [top.map(({ id }) => id), item.top_logprobs.map(([id]) => id)] as const;
    // In half precision those that are close may change places. What comes after the last, and how close, is not known.
    const clear = (_: unknown, rank: number): boolean =>
      within === LOGPROB_TOLERANCE ||
      (rank < 4 && [rank - 1, rank + 1].every((other) => !(Math.abs(expected[rank]! - expected[other]!) < 2 * within)));
    t.same(ids[0].filter(clear), ids[1].filter(clear), `${item.id}: the likeliest`);
  }
}

/** The cases' adapters and hard prompts, compiled as at registration. */
async function compile(
  model: Awaited<ReturnType<typeof openTestModel>>,
  name: string,
  cases: readonly GoldenCase[],
): Promise<Map<string, KvTensor>> {
  const prefixes = new Map<string, KvTensor>();
  for (const item of cases) {
    const key = prefixName(item);
    if (key === "" || prefixes.has(key)) continue;
    const hard = item.hard_prompt_ids;
    const kv =
      hard === undefined
        ? await model.adapter(join(goldenDir(name), "adapters", key))
        : await model.engine.fold({ kind: "tokens", ids: Int32Array.from(hard) }, { tenant: "test" });
    prefixes.set(key, kv);
  }
  return prefixes;
}

function prefixName(item: GoldenCase): string {
  return item.adapter ?? (item.hard_prompt_ids === undefined ? "" : `hard:${item.hard_prompt_ids.join(",")}`);
}
