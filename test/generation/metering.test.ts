/** What requests cost their users: usage, and tokens per minute. */
import t from "tap";
import { PrefixdError } from "../../src/errors.ts";
import { GenerationService, type GenerationListener, type ValidGenerateRequest } from "../../src/generation/service.ts";
import type { RequestUsage } from "../../src/users/usage.ts";
import { FakeEngine } from "../support/fake-engine.ts";
import { FakeRegistry } from "../support/fake-registry.ts";
import { FakeTokenizer } from "../support/fake-tokenizer.ts";
import { request } from "./valid-request.ts";

const ids = (text: string): Int32Array => Int32Array.from(Buffer.from(text));
const never = new AbortController().signal;
const deaf: GenerationListener = { onStep() {}, onError() {} };

/** A service with a meter: what was recorded, and tokens charged per user. */
function metered(t: { teardown(fn: () => void): unknown }): {
  engine: FakeEngine;
  registry: FakeRegistry;
  prefixed: ValidGenerateRequest;
  service: GenerationService;
  used: RequestUsage[];
  charged: Map<string, number>;
  refuse: { now: boolean };
} {
  const engine = new FakeEngine();
  t.teardown(() => engine.close());
  const registry = new FakeRegistry();
  const used: RequestUsage[] = [];
  const charged = new Map<string, number>();
  const refuse = { now: false };
  const charge = (user: string, tokens: number): void => void charged.set(user, (charged.get(user) ?? 0) + tokens);
  const admit = (user: string, tokens: number): Promise<void> => {
    if (refuse.now) return Promise.reject(new PrefixdError("token_rate_exceeded", "Too much."));
    return Promise.resolve(charge(user, tokens));
  };
  const service = new GenerationService({
    engine,
    prefixes: registry,
    tokenizer: new FakeTokenizer(),
    positions: 64,
    eosIds: [256],
    allowBaseModel: true,
    metrics: { request() {} },
    usage: { record: (one) => void used.push(one) },
    tokenRate: { admit, charge },
  });
  return {
    engine,
    registry,
    service,
    used,
    charged,
    refuse,
    prefixed: request({ prefix: { user: "local", name: "p" } }),
  };
}

t.test(
  "what a request used is recorded once, however it ends, and charged to its user's tokens per minute",
  async (t) => {
    const { engine, registry, prefixed, service, used, charged } = metered(t);
    await registry.register({ user: "local", name: "p" }, { kind: "hard", ids: ids("xyz") });
    await service.collect(prefixed, never);
    t.match(used, [{ user: "local", prefix: "p", requests: 1, prefixTokens: 3, promptTokens: 2, completionTokens: 3 }]);
    t.ok(used[0]!.queueSeconds >= 0 && used[0]!.runSeconds >= 0);
    t.equal(charged.get("local"), 5);

    engine.stepMs = null;
    const gone = new AbortController();
    await service.start(request({ prompts: [ids("abc"), ids("d")], n: 2, maxNewTokens: 9 }), deaf, gone.signal);
    engine.step();
    engine.step();
    gone.abort("disconnected");
    engine.step();
    t.match(
      used[1],
      { prefix: null, prefixTokens: 0, promptTokens: 4, completionTokens: 8 },
      "what was generated before the client left",
    );
    t.equal(charged.get("local"), 5 + 12);

    await service.start(prefixed, deaf, never);
    engine.step();
    await service.endRequestsOf({ user: "local", name: "p" });
    t.match(used[2], { prefix: "p", promptTokens: 2, completionTokens: 1 }, "removed");

    const waiting = new AbortController();
    await service.start(request(), deaf, waiting.signal);
    waiting.abort("disconnected");
    t.match(used[3], { promptTokens: 0, completionTokens: 0, runSeconds: 0 }, "it never left the queue");
    t.equal(charged.get("local"), 20, "its prompt was given back");
    t.equal(used.length, 4);
  },
);

t.test(
  "every beam's and every drawn choice's tokens are counted and charged, also those that are not in the answer",
  async (t) => {
    const { service, used, charged } = metered(t);
    const beams = { numBeams: 4, lengthPenalty: 1, earlyStopping: false };
    const searched = await service.collect(request({ beams, n: 2 }), never);
    t.match(searched, {
      choices: [{ tokenIds: [99, 100, 101], score: -1 }, { score: -2 }],
      end: { usage: { completion: 12 } },
    });
    t.match(used, [{ promptTokens: 2, completionTokens: 12 }]);
    t.equal(charged.get("local"), 14);
    const drawn = await service.collect(request({ bestOf: 3 }), never);
    t.match(drawn, { choices: [{ index: 0, score: -0.5 }], end: { usage: { completion: 9 } } });
    t.equal(drawn.choices.length, 1);
    t.equal(charged.get("local"), 14 + 11);
  },
);

t.test(
  "a request that is refused costs nothing; one that is let in reserves all that it may come to, and gives back what it did not",
  async (t) => {
    const { engine, service, used, charged, refuse } = metered(t);
    engine.maxQueue = 0;
    await t.rejects(service.collect(request(), never), { code: "queue_full" });
    t.equal(charged.get("local"), 0);
    refuse.now = true;
    await t.rejects(service.collect(request(), never), { code: "token_rate_exceeded" });
    t.same([used, engine.submitted], [[], []]);
    refuse.now = false;
    engine.maxQueue = 4;
    engine.stepMs = null;
    engine.script = () => 65;
    await service.start(request({ prompts: [ids("ab"), ids("cd")], n: 2, maxNewTokens: 50 }), deaf, never);
    for (let step = 0; step < 20; step++) engine.step();
    t.equal(charged.get("local"), 4 + 200, "80 are made");
    for (let step = 0; step < 30; step++) engine.step();
    await Promise.resolve();
    t.equal(charged.get("local"), 4 + 200);
    charged.clear();
    engine.script = (_request, _choice, k) => (k === 1 ? 256 : 65);
    await service.start(request({ n: 2, maxNewTokens: 50 }), deaf, never);
    await service.start(
      request({ beams: { numBeams: 3, lengthPenalty: 1, earlyStopping: false }, maxNewTokens: 20 }),
      deaf,
      never,
    );
    await service.start(request({ maxNewTokens: 1000, cutTo: 1 }), deaf, never);
    t.equal(charged.get("local"), 2 + 100 + (2 + 60) + (2 + 63), "a default counts as far as the context goes");
    engine.step();
    engine.step();
    await Promise.resolve();
    t.equal(charged.get("local"), 3 * 2 + 2 * 2 + 3 * 2 + 2, "ended by EOS");
  },
);
