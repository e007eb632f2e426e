import t from "tap";
import { PrefixdError } from "../../src/errors.ts";
import {
  GenerationService,
  type ChoiceDelta,
  type GenerationEnd,
  type GenerationListener,
} from "../../src/generation/service.ts";
import { until } from "../support/app.ts";
import { FakeEngine } from "../support/fake-engine.ts";
import { FakeRegistry } from "../support/fake-registry.ts";
import { FakeTokenizer } from "../support/fake-tokenizer.ts";
import { request } from "./valid-request.ts";

const ids = (text: string): Int32Array => Int32Array.from(Buffer.from(text));
const never = new AbortController().signal;

function make(
  t: { teardown(fn: () => void): unknown },
  allowBaseModel = true,
): { engine: FakeEngine; registry: FakeRegistry; service: GenerationService; outcomes: string[] } {
  const engine = new FakeEngine();
  t.teardown(() => engine.close());
  const registry = new FakeRegistry();
  const outcomes: string[] = [];
  const metrics = { request: (outcome: string) => void outcomes.push(outcome) };
  const service = new GenerationService({
    engine,
    prefixes: registry,
    tokenizer: new FakeTokenizer(),
    positions: 64,
    eosIds: [256],
    allowBaseModel,
    metrics,
  });
  return { engine, registry, service, outcomes };
}

/** Tokens of this text, one per step, whatever the request says. */
const say =
  (text: string): FakeEngine["script"] =>
  (_request, _choice, k) =>
    k < text.length ? text.charCodeAt(k) : 256;

class Recorder implements GenerationListener {
  readonly steps: ChoiceDelta[][] = [];
  end: GenerationEnd | null = null;
  error: PrefixdError | null = null;
  onStep(deltas: readonly ChoiceDelta[], end: GenerationEnd | null): void {
    this.steps.push([...deltas]);
    this.end = end;
  }
  onError(error: PrefixdError): void {
    this.error = error;
  }
}

t.test("a whole result: text, ids, usage, and the prefix that was used", async (t) => {
  const { engine, registry, service, outcomes } = make(t);
  const { meta } = await registry.register({ user: "local", name: "p" }, { kind: "hard", ids: ids("xyz") });
  const { choices, end } = await service.collect(request({ prefix: { user: "local", name: "p" }, logprobs: 2 }), never);
  t.match(choices, [
    {
      index: 0,
      text: "cde",
      tokenIds: [99, 100, 101],
      finishReason: "length",
      logprobs: { token: [-0.5, -0.5, -0.5] },
    },
  ]);
  t.equal(choices[0]?.logprobs.top.length, 3);
  const { timings, ...rest } = end;
  t.same(rest, {
    prefix: { key: { user: "local", name: "p" }, digest: meta.digest },
    usage: { prefix: 3, prompt: 2, completion: 3 },
  });
  t.match(timings, { queueMs: Number, prefillMs: Number, decodeMs: Number, tokensPerSecond: Number });
  t.match(engine.submitted[0], {
    id: "gen-1-0",
    n: 1,
    maxNewTokens: 3,
    seed: 7,
    topLogprobs: 2,
    eosIds: [256],
    prefix: { length: 3 },
  });
  t.same(outcomes, ["ok"]);
});

t.test("EOS is among the ids and not in the text; it is not asked for when it is to be ignored", async (t) => {
  const { engine, service } = make(t);
  engine.script = say("hi");
  const { choices } = await service.collect(request({ maxNewTokens: 10 }), never);
  t.match(choices, [{ text: "hi", tokenIds: [104, 105, 256], finishReason: "eos" }]);
  await service.collect(request({ ignoreEos: true }), never);
  t.same(engine.submitted[1]?.eosIds, []);
});

t.test(
  "text ends before the stop string, ids with the token that completed it; what only began it is not lost",
  async (t) => {
    const { engine, service } = make(t);
    engine.script = say("one. two");
    t.match((await service.collect(request({ maxNewTokens: 9, stop: [". "] }), never)).choices, [
      { text: "one", tokenIds: [..."one. "].map((c) => c.charCodeAt(0)), finishReason: "stop" },
    ]);
    t.match((await service.collect(request({ maxNewTokens: 4, stop: [". "] }), never)).choices, [
      { text: "one.", finishReason: "length" },
    ]);
  },
);

t.test("what one step brings for all choices and prompts comes together; the end comes with the last", async (t) => {
  const { engine, service } = make(t);
  engine.stepMs = null;
  engine.script = ({ promptIds }, choice, k) => (promptIds[0] === 97 && choice === 0 && k === 1 ? 256 : 65 + choice);
  const out = new Recorder();
  await service.start(request({ prompts: [ids("a"), ids("b")], n: 2, maxNewTokens: 3 }), out, never);
  for (let i = 0; i < 3; i++) {
    engine.step();
    await Promise.resolve();
  }
  t.match(
    out.steps.map((step) => step.map((delta) => delta.index)),
    [
      [0, 1, 2, 3],
      [0, 1, 2, 3],
      [1, 2, 3],
    ],
  );
  t.equal(out.steps[1]?.[0]?.finishReason, "eos");
  t.match(out.end, { prefix: null, usage: { prefix: 0, prompt: 2, completion: 11 } });
});

t.test("all prompts are taken in, or none", async (t) => {
  const { engine, service, outcomes } = make(t);
  engine.stepMs = null;
  engine.maxQueue = 2;
  await t.rejects(service.collect(request({ prompts: [ids("a"), ids("b"), ids("c")] }), never), { code: "queue_full" });
  t.same(engine.cancelled, ["gen-1-0 cancelled", "gen-1-1 cancelled"]);
  t.equal(engine.stats().running, 0);
  t.same(outcomes, ["queue_full"]);
});

t.test(
  "prefix, prompt and new tokens must fit: one more than the positions does, for the last is never fed back",
  async (t) => {
    const { registry, service } = make(t);
    await registry.register({ user: "local", name: "p" }, { kind: "hard", ids: ids("xyz") });
    const fits = request({ prefix: { user: "local", name: "p" }, prompts: [ids("a".repeat(60))], maxNewTokens: 2 });
    await service.collect(fits, never);
    await t.rejects(service.collect({ ...fits, maxNewTokens: 3 }, never), {
      code: "context_exceeded",
      message: /3 prefix \+ 60 prompt \+ 3 new tokens are 66; the model takes 65/,
    });
  },
);

t.test("the bare base model only where it is allowed; unknown prefixes never become it", async (t) => {
  const { engine, service } = make(t, false);
  await t.rejects(service.collect(request(), never), { code: "base_model_disabled" });
  await t.rejects(service.collect(request({ prefix: { user: "local", name: "gone" } }), never), {
    code: "prefix_not_found",
  });
  t.same(engine.submitted, []);
});

t.test("an abort frees the engine, says nothing more, and is counted", async (t) => {
  const { engine, service, outcomes } = make(t);
  engine.stepMs = null;
  const controller = new AbortController();
  const out = new Recorder();
  await service.start(request(), out, controller.signal);
  engine.step();
  controller.abort("disconnected");
  engine.step();
  await Promise.resolve();
  t.same(engine.cancelled, ["gen-1-0 cancelled"]);
  t.same(out.steps, []);
  t.equal(out.error, null);
  const slow = new AbortController();
  await service.start(request(), out, slow.signal);
  slow.abort("too_slow");
  const early = new AbortController();
  early.abort("disconnected");
  await t.rejects(service.start(request(), out, early.signal), { name: "RequestAborted" });
  t.same(outcomes, ["cancelled", "too_slow", "cancelled"]);
  t.equal(engine.submitted.length, 2);
});

t.test("a search whose prefix is removed is not answered", async (t) => {
  const { engine, registry, service, outcomes } = make(t);
  engine.stepMs = null;
  const key = { user: "local", name: "p" };
  await registry.register(key, { kind: "hard", ids: ids("x") });
  const whole = service.collect(
    request({ prefix: key, beams: { numBeams: 2, lengthPenalty: 1, earlyStopping: false } }),
    never,
  );
  whole.catch(() => undefined);
  await until(() => engine.submitted.length === 1);
  await service.endRequestsOf(key);
  await t.rejects(whole, { code: "removed" });
  t.same([outcomes, engine.stats().running], [["removed"], 0]);
});

t.test("a removed prefix ends what runs on it, and waits for it", async (t) => {
  const { engine, registry, service, outcomes } = make(t);
  engine.stepMs = null;
  const key = { user: "local", name: "p" };
  await registry.register(key, { kind: "hard", ids: ids("x") });
  const begun = new Recorder();
  const waiting = new Recorder();
  const other = new Recorder();
  await service.start(request({ prefix: key }), begun, never);
  engine.step();
  await Promise.resolve();
  await service.start(request({ prefix: key, id: "gen-2" }), waiting, never);
  await service.start(request({ id: "gen-3" }), other, never);
  const whole = service.collect(request({ prefix: key, id: "gen-4" }), never);
  whole.catch(() => undefined);
  await until(() => engine.submitted.length === 4);
  await service.endRequestsOf(key);
  t.match(begun.steps.at(-1), [{ finishReason: "removed" }]);
  t.not(begun.end, null);
  t.match(waiting.error, { code: "removed" });
  await t.rejects(whole, { code: "removed" });
  t.equal(other.error, null);
  t.equal(engine.stats().running, 1);
  t.same(outcomes.sort(), ["removed", "removed", "removed"]);
});

t.test("a prefix that is removed while it is being looked up is not used", async (t) => {
  const { engine, registry, service } = make(t);
  const key = { user: "local", name: "p" };
  await registry.register(key, { kind: "hard", ids: ids("x") });
  registry.whileResolving = async () => void (await service.endRequestsOf(key));
  await t.rejects(service.collect(request({ prefix: key }), never), { code: "prefix_not_found" });
  t.same(engine.submitted, []);
});

t.test(
  "an error of the engine reaches the listener after what was made; the other prompts are cancelled",
  async (t) => {
    const { engine, service, outcomes } = make(t);
    engine.stepMs = null;
    const out = new Recorder();
    await service.start(request({ prompts: [ids("a"), ids("b")] }), out, never);
    engine.step();
    engine.failAll(new PrefixdError("model_failed", "boom"));
    t.equal(out.steps.length, 1);
    t.match(out.error, { code: "model_failed" });
    t.same(outcomes, ["model_failed"]);
  },
);

t.test("when it drains, nothing new is taken in and the rest can be ended", async (t) => {
  const { engine, service } = make(t);
  engine.stepMs = null;
  const out = new Recorder();
  await service.start(request(), out, never);
  service.stopAdmission();
  await t.rejects(service.collect(request(), never), { code: "draining" });
  await service.idle(10);
  service.endAll(new PrefixdError("draining", "over"));
  t.match(out.error, { code: "draining" });
  await service.idle(10_000);
});
