/**
 * Constrained generation by the demo model: what transformers gives with `prefix_allowed_tokens_fn`, and the same tokens alone, beside others,
 * with cold and warm masks.
 */
import { readFileSync } from "node:fs";
import { Ajv2020 } from "ajv/dist/2020.js";
import t from "tap";
import { Engine } from "../../src/engine/engine.ts";
import type { EngineRequest } from "../../src/engine/request.ts";
import { Constraints } from "../../src/generation/constraints.ts";
import type { ConstraintSpec } from "../../src/generation/service.ts";
import { constraintOf, type StructuredOutputs } from "../../src/http/generate/structured-outputs.ts";
import { DEFAULT_LIMITS } from "../../src/structured/limits.ts";
import { effort } from "../support/effort.ts";
import { engineRequest, GREEDY, openTestModel, silentObserver, submit, type ChoiceResult } from "../support/model.ts";
import { DEMO_VOCABULARY, demoTokenizer } from "../structured/support.ts";

interface GoldenCase {
  readonly prompt_ids: number[];
  readonly structured_outputs: StructuredOutputs;
  readonly num_beams: number;
  readonly length_penalty?: number;
  readonly repetition_penalty?: number;
  readonly sequences: readonly { readonly token_ids: number[]; readonly score?: number }[];
}

const EOS = DEMO_VOCABULARY - 1;
const { cases } = JSON.parse(readFileSync(new URL("../golden/constraints.json", import.meta.url), "utf8")) as {
  cases: GoldenCase[];
};
const SCHEMA = {
  type: "object",
  properties: {
    intent: { enum: ["smart home", "weather", "play music"] },
    minutes: { type: "integer", minimum: 0, maximum: 90 },
    note: { type: "string", maxLength: 12 },
    tags: { type: "array", items: { type: "string", pattern: "^[a-z]+$" }, maxItems: 2 },
  },
  required: ["intent", "minutes"],
  additionalProperties: false,
};

const model = await openTestModel(new URL("../../models/demo", import.meta.url).pathname, { slots: 16 });
t.teardown(() => model.close());
const tokenizer = await demoTokenizer();
const newConstraints = (): Constraints =>
  new Constraints({ tokenizer, eosIds: [EOS], positions: 512, limits: DEFAULT_LIMITS, cacheBytes: 1 << 25 });

async function request(
  constraints: Constraints,
  spec: ConstraintSpec,
  given: Partial<EngineRequest> & Pick<EngineRequest, "promptIds">,
): Promise<EngineRequest> {
  const prepared = await constraints.prepare(given.tenant ?? "test", spec);
  return engineRequest({ eosIds: [EOS], constraint: prepared.start(), preparation: prepared.preparation, ...given });
}
const json = (schema: unknown): ConstraintSpec => ({ form: { kind: "json", schema }, leadingSpace: true });
const textOf = ({ ids }: ChoiceResult): string => tokenizer.decode(ids);
const tokensOf = (results: readonly ChoiceResult[]): unknown =>
  results.map(({ ids, reason, score, logprobs }) => ({ ids, reason, score, logprobs }));

t.test("constrained choices are transformers', all in one batch", async (t) => {
  const constraints = newConstraints();
  const runs = cases.map(async (one) => {
    const spec = { ...constraintOf(one.structured_outputs)!, leadingSpace: false };
    const sampling = { ...GREEDY, repetitionPenalty: one.repetition_penalty ?? 1 };
    const beams =
      one.num_beams === 1
        ? null
        : { numBeams: one.num_beams, lengthPenalty: one.length_penalty ?? 1, earlyStopping: false };
    const results = await submit(
      model.engine,
      await request(constraints, spec, {
        promptIds: Int32Array.from(one.prompt_ids),
        beams,
        n: one.num_beams,
        maxNewTokens: 20,
        sampling,
      }),
    ).done;
    for (const [index, { token_ids, score }] of one.sequences.entries()) {
      const { ids, score: ours, reason } = results[index]!;
      t.same(ids, token_ids, JSON.stringify({ ...one, sequences: undefined }));
      t.equal(reason, ids.at(-1) === EOS ? "eos" : "stop");
      if (score !== undefined)
        t.ok(Math.abs(ours! - score) < 2e-3 * Math.max(1, Math.abs(score)), `${ours} and ${score}`);
    }
  });
  await Promise.all(runs);
});

t.test("the bits are the same alone and beside others, cold and warm", async (t) => {
  const promptIds = tokenizer.encode("turn on the microwave for 3 minutes\n=>");
  const sampling = { ...GREEDY, doSample: true, topK: 0, topP: 0.95 };
  const specs: readonly ConstraintSpec[] = [
    json(SCHEMA),
    json({ type: "object" }),
    { form: { kind: "regex", source: "[^x]{5,40}" }, leadingSpace: true },
    { form: { kind: "choice", texts: ["smart home", "weather", "alarm"] }, leadingSpace: true },
  ];
  const forms: readonly Partial<EngineRequest>[] = [
    {},
    { n: 2, sampling },
    { beams: { numBeams: 3, lengthPenalty: 1, earlyStopping: false } },
    { beams: { numBeams: 2, lengthPenalty: 1, earlyStopping: false }, sampling: { ...sampling, topK: 20 } },
  ];
  const all = specs.flatMap((spec, s) =>
    forms.map((form, f) => ({
      spec,
      form: { ...form, promptIds, maxNewTokens: 24, seed: 7, tenant: `user ${(s + f) % 3}` },
    })),
  );
  const alone: unknown[] = [];
  for (const { spec, form } of all)
    alone.push(tokensOf(await submit(model.engine, await request(newConstraints(), spec, form)).done));
  const warm = newConstraints();
  for (let round = 0; round < effort({ short: 2, long: 10 }); round++) {
    const plain = submit(
      model.engine,
      engineRequest({ promptIds, maxNewTokens: 40, sampling, seed: round, tenant: "other" }),
    );
    const together = await Promise.all(
      all.map(async ({ spec, form }) => submit(model.engine, await request(warm, spec, form)).done),
    );
    for (const [index, results] of together.entries())
      t.same(tokensOf(results), alone[index], `${index} in round ${round}`);
    const { ids } = (await plain.done)[0]!;
    const lonely = await submit(model.engine, engineRequest({ promptIds, maxNewTokens: 40, sampling, seed: round }))
      .done;
    t.same(lonely[0]!.ids, ids, "a neighbour without a constraint");
  }
  t.ok(warm.stats().hits > 0);
});

t.test("sampled JSON is valid and ends by itself", async (t) => {
  const validate = new Ajv2020({ strict: false }).compile(SCHEMA);
  const constraints = newConstraints();
  const promptIds = tokenizer.encode("once upon a time");
  let complete = 0;
  for (let seed = 0; seed < effort({ short: 4, long: 40 }); seed++) {
    const results = await submit(
      model.engine,
      await request(constraints, json(SCHEMA), {
        promptIds,
        n: 8,
        maxNewTokens: 90,
        seed,
        sampling: { ...GREEDY, doSample: true, topK: 50 },
      }),
    ).done;
    for (const result of results) {
      if (result.reason === "length") continue;
      complete++;
      if (!validate(JSON.parse(textOf(result)))) t.fail(textOf(result));
    }
  }
  t.ok(complete > 20, `${complete} complete`);
});

t.test("rows that wait for a mask lose nothing and hold up nobody", async (t) => {
  // No candidates to speak of: the prompt makes the model want letters, and the constraint wants digits and rare characters.
  const spec: ConstraintSpec = { form: { kind: "regex", source: "([^a-z ]|[0-9é日]{2}){10,30}" }, leadingSpace: false };
  const promptIds = tokenizer.encode("the weather is");
  let worked = 0;
  const engine = new Engine({
    runner: model.runner,
    maxQueue: 100,
    prefillChunk: 64,
    observer: { ...silentObserver, constraintWork: () => void worked++ },
  });
  const form = { promptIds, maxNewTokens: 20, n: 4, seed: 3, sampling: { ...GREEDY, doSample: true, topK: 0 } };
  const [mine, others] = await Promise.all([
    request(newConstraints(), spec, form).then((one) => submit(engine, one).done),
    submit(engine, engineRequest({ promptIds, maxNewTokens: 30, tenant: "other" })).done,
  ]);
  t.ok(worked > 0, `${worked} steps with work on masks`);
  await engine.drain(0);
  t.same(tokensOf(await submit(model.engine, await request(newConstraints(), spec, form)).done), tokensOf(mine));
  t.same(tokensOf(await submit(model.engine, engineRequest({ promptIds, maxNewTokens: 30 })).done), tokensOf(others));
});

t.test("a request above its work limit ends with an error; others go on", async (t) => {
  const small = new Constraints({
    tokenizer,
    eosIds: [EOS],
    positions: 512,
    limits: { ...DEFAULT_LIMITS, requestWork: 2_000 },
    cacheBytes: 1 << 20,
  });
  const promptIds = tokenizer.encode("the weather is");
  const given = { promptIds, maxNewTokens: 30, sampling: { ...GREEDY, doSample: true, topK: 0 } };
  const spec: ConstraintSpec = { form: { kind: "regex", source: "[^x]{30,40}" }, leadingSpace: false };
  for (let attempt = 0; attempt < 2; attempt++)
    await t.rejects(submit(model.engine, await request(small, spec, given)).done, { code: "constraint_too_complex" });
  t.equal((await submit(model.engine, engineRequest(given)).done)[0]!.ids.length, 30);
});

t.test("compiled constraints belong to their user, and go with the user", async (t) => {
  const constraints = newConstraints();
  await constraints.prepare("ann", json(SCHEMA));
  t.equal((await constraints.prepare("ann", json(SCHEMA))).preparation, 0);
  t.ok((await constraints.prepare("ben", json(SCHEMA))).preparation > 0, "ben's first");
  t.match(constraints.stats(), { hits: 1, misses: 2, entries: 2 });
  const late = constraints.prepare("ann", json(true));
  constraints.forget("ann");
  await late;
  t.equal(constraints.stats().entries, 1, "what was being compiled is not kept either");
  constraints.forget(null);
  t.match(constraints.stats(), { entries: 0, bytes: 0 });
  await t.rejects(
    constraints.prepare("ann", { form: { kind: "regex", source: "a".repeat(70_000) }, leadingSpace: false }),
    { code: "constraint_too_complex" },
  );
});
