/** However a request ends, and in whatever order things come to end it: one outcome is told, once, and everything is given back. */
import { getEventListeners } from "node:events";
import t from "tap";
import { PrefixdError } from "../../src/errors.ts";
import {
  GenerationService,
  type ChoiceDelta,
  type GenerationEnd,
  type GenerationListener,
} from "../../src/generation/service.ts";
import type { RequestUsage } from "../../src/users/usage.ts";
import { effort } from "../support/effort.ts";
import { FakeEngine } from "../support/fake-engine.ts";
import { FakeRegistry } from "../support/fake-registry.ts";
import { FakeTokenizer } from "../support/fake-tokenizer.ts";
import { request } from "./valid-request.ts";

const KEY = { user: "local", name: "p" };
const REQUEST = request({
  prefix: KEY,
  prompts: [Int32Array.of(97, 98), Int32Array.of(99)],
  n: 2,
  ignoreEos: true,
});

/** Where a request is: its prefix is looked up; its tokens are reserved; it waits; some tokens were handed over; others were not. */
const MOMENTS = ["resolving", "reserving", "queued", "running", "between step and flush"] as const;
type Moment = (typeof MOMENTS)[number];

/** What one request lived through, and what was heard of it. */
class Life implements GenerationListener {
  readonly engine = new FakeEngine();
  readonly registry = new FakeRegistry();
  readonly client = new AbortController();
  readonly outcomes: string[] = [];
  readonly used: RequestUsage[] = [];
  /** Tokens of the user's rate that are taken. */
  charged = 0;
  lease = true;
  /** Codes of errors, or how the last choice ended. */
  readonly told: string[] = [];
  readonly violations: string[] = [];
  submitted = false;
  readonly service: GenerationService;
  readonly #at: (moment: Moment) => Promise<void>;

  constructor(at: (life: Life, moment: Moment) => Promise<void>) {
    this.#at = (moment) => at(this, moment);
    this.engine.stepMs = null;
    this.registry.whileResolving = () => this.#at("resolving");
    const charge = (_user: string, tokens: number): void => void (this.charged += tokens);
    this.service = new GenerationService({
      engine: this.engine,
      prefixes: this.registry,
      tokenizer: new FakeTokenizer(),
      positions: 64,
      eosIds: [256],
      allowBaseModel: true,
      mayEmit: () => this.lease,
      metrics: {
        request: (outcome) => {
          this.outcomes.push(outcome);
          if (this.engine.stats().running > 0) this.violations.push(`${outcome}, and the engine goes on`);
        },
      },
      usage: { record: (usage) => void this.used.push(usage) },
      tokenRate: {
        charge,
        admit: async (user, tokens) => {
          charge(user, tokens);
          await this.#at("reserving");
        },
      },
    });
  }

  onStep(_deltas: readonly ChoiceDelta[], end: GenerationEnd | null): void {
    if (this.told.length > 0) this.violations.push("a step after the end");
    if (end !== null) this.told.push("end");
  }

  onError(error: PrefixdError): void {
    if (this.told.length > 0) this.violations.push(`${error.code} after the end`);
    this.told.push(error.code);
  }

  async live(): Promise<void> {
    await this.registry.register(KEY, { kind: "hard", ids: Int32Array.of(120) });
    try {
      await this.service.start(REQUEST, this, this.client.signal);
      this.submitted = true;
      await this.#at("queued");
      await this.step();
      await this.#at("running");
      this.engine.step();
      await this.#at("between step and flush");
      for (let step = 0; step < 5; step++) await this.step();
    } catch (error) {
      this.told.push(error instanceof PrefixdError ? error.code : (error as Error).name);
    }
  }

  async step(): Promise<void> {
    this.engine.step();
    await Promise.resolve();
  }
}

/** What may end a request, or come between. */
const EVENTS: Readonly<Record<string, (life: Life) => void>> = {
  "the client leaves": ({ client }) => client.abort("disconnected"),
  "the client is too slow": ({ client }) => client.abort("too_slow"),
  "the prefix is removed": ({ service }) => void service.endRequestsOf(KEY),
  "the user is removed": ({ service }) => void service.endRequestsOfUser(REQUEST.user),
  "the engine fails": ({ engine }) => engine.failAll(new PrefixdError("model_failed", "boom")),
  "it has waited too long": ({ engine }) => engine.failAll(new PrefixdError("queue_timeout", "too long")),
  "the server drains": ({ service }) => service.endAll(new PrefixdError("draining", "over")),
  "the lease is lost": (life) => (life.lease = false),
  "a step": ({ engine }) => engine.step(),
};

type Plan = readonly { readonly moment: Moment; readonly event: string }[];

/** Every order of so many different events or fewer, at every moment that is no earlier than the one before. */
function* plans(most: number, before: Plan = []): Generator<Plan> {
  yield before;
  if (before.length === most) return;
  const from = before.length === 0 ? 0 : MOMENTS.indexOf(before.at(-1)!.moment);
  for (const event of Object.keys(EVENTS)) {
    if (before.some((one) => one.event === event)) continue;
    for (const moment of MOMENTS.slice(from)) yield* plans(most, [...before, { moment, event }]);
  }
}

async function liveThrough(plan: Plan): Promise<Life> {
  const life = new Life(async (self, at) => {
    for (const { moment, event } of plan) if (moment === at) EVENTS[event]!(self);
  });
  await life.live();
  return life;
}

/** What is wrong with how it ended. */
async function faultsOf(life: Life): Promise<string[]> {
  const { outcomes, used, told, client, charged, service } = life;
  const faults = [...life.violations];
  const [outcome] = outcomes;
  if (outcomes.length !== 1) return [...faults, `counted ${outcomes.length} times: ${outcomes.join()}`];
  const silent = outcome === "cancelled" || outcome === "too_slow";
  const expected = silent
    ? life.submitted
      ? []
      : ["RequestAborted"]
    : outcome === "ok" || (outcome === "removed" && told[0] === "end")
      ? ["end"]
      : [outcome];
  if (told.join() !== expected.join()) faults.push(`counted as ${outcome}, told ${told.join() || "nothing"}`);
  if (used.length !== (life.submitted ? 1 : 0)) faults.push(`billed ${used.length} times`);
  const bill = used[0] === undefined ? 0 : used[0].promptTokens + used[0].completionTokens;
  if (charged !== bill) faults.push(`${charged} tokens are taken, ${bill} were used`);
  if (getEventListeners(client.signal, "abort").length > 0) faults.push("still listens to its client");
  const left = await service.endRequestsOfUser(REQUEST.user);
  if (left.queued + left.running > 0) faults.push("still among those that live");
  return faults;
}

t.test("every order of events: one outcome is told once, and everything is given back", async (t) => {
  const seen = new Set<string>();
  let lives = 0;
  for (const plan of plans(effort({ short: 2, long: 3 }))) {
    const life = await liveThrough(plan);
    const faults = await faultsOf(life);
    lives++;
    for (const outcome of life.outcomes) seen.add(outcome);
    if (faults.length > 0)
      return t.fail(faults.join("; "), { plan: plan.map(({ moment, event }) => `${moment}: ${event}`) });
  }
  t.ok(lives > 1000, `${lives} orders`);
  t.same(
    [...seen].sort(),
    [
      "cancelled",
      "draining",
      "model_failed",
      "ok",
      "prefix_not_found",
      "queue_timeout",
      "removed",
      "store_unavailable",
      "too_slow",
    ],
    "every way to end",
  );
});

t.test("what comes first decides", async (t) => {
  const outcomeOf = async (...plan: Plan): Promise<string | undefined> => (await liveThrough(plan)).outcomes[0];
  const at = (moment: Moment, event: string): Plan[number] => ({ moment, event });
  t.equal(await outcomeOf(), "ok");
  t.equal(await outcomeOf(at("running", "the client leaves"), at("running", "the engine fails")), "cancelled");
  t.equal(await outcomeOf(at("running", "the engine fails"), at("running", "the client leaves")), "model_failed");
  t.equal(await outcomeOf(at("queued", "the server drains"), at("running", "the prefix is removed")), "draining");
  t.equal(
    await outcomeOf(at("resolving", "the prefix is removed"), at("reserving", "the server drains")),
    "prefix_not_found",
  );
  t.equal(await outcomeOf(at("reserving", "the server drains"), at("queued", "the client leaves")), "draining");
});
