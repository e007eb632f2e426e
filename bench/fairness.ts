/**
 * How does one user who queues 500 long requests affect polite users, and what does fairness cost?
 *
 *     npm run bench -- fairness
 *
 * The demo model through the engine, without HTTP. Each of 8 polite users keeps some requests in the server until its
 * number of them is done. Times to first token are of requests sent while the abuser had requests waiting. The work is
 * the same with every policy, so total tokens per second compare their throughput.
 */
import type { EngineOptions } from "../src/engine/engine.ts";
import { EQUAL_SHARES, OUTPUT_PRICE, PROMPT_PRICE, type TenantShares } from "../src/engine/scheduling/fair-share.ts";
import { firstFit } from "../test/support/plans.ts";
import { benchRequest, newEngine, openFolder, randomPrefix } from "./support/gpt2.ts";
import { machine, median, quantile, table, writeSection } from "./support/report.ts";

const SLOTS = 16;
const POLITE = 8;
const ROUNDS = Number(process.env["ROUNDS"] ?? 3);
const ABUSER = { requests: 500, prompt: 64, newTokens: 64 };
const EACH = { requests: 20, prompt: 24, newTokens: 24 };
const LOADS = [
  { name: "3 requests each at a time", outstanding: 3 },
  { name: "1 request each at a time", outstanding: 1 },
];

await using model = await openFolder(new URL("../models/demo", import.meta.url).pathname, SLOTS);
const { runner, shape } = model;
const prefixes = Array.from({ length: POLITE + 1 }, (_, seed) => randomPrefix(shape, 10, seed));
const limited: TenantShares = {
  of: (tenant) => ({ ...EQUAL_SHARES.of(tenant), maxRunning: tenant === "abuser" ? 4 : null }),
};
type Given = Pick<EngineOptions, "policy" | "shares">;
/** `all`: measure until everything has ended; otherwise until the polite users are done. */
const CASES: { name: string; abuser: boolean; all: boolean; given: Given }[] = [
  { name: "without the abuser", abuser: false, all: false, given: {} },
  { name: "first come, first served", abuser: true, all: true, given: { policy: firstFit } },
  { name: "fair share", abuser: true, all: true, given: {} },
  { name: "fair share, abuser's max_running 4", abuser: true, all: false, given: { shares: limited } },
];

const waits = new Map<string, { p50: number[]; p99: number[] }>();
const rates = new Map<string, number[]>();
for (let round = 0; round < ROUNDS; round++) {
  for (const load of LOADS) {
    for (const one of CASES) {
      const { ttft, tokensPerSecond } = await run(one, load.outstanding);
      const key = `${load.name} ${one.name}`;
      if (!waits.has(key)) waits.set(key, { p50: [], p99: [] });
      waits.get(key)!.p50.push(quantile(ttft, 0.5));
      waits.get(key)!.p99.push(quantile(ttft, 0.99));
      rates.set(key, [...(rates.get(key) ?? []), tokensPerSecond]);
    }
  }
  process.stderr.write(`round ${round + 1} of ${ROUNDS}\n`);
}
const weights = [1, 2, 4, 8];
const jain = { fair: await byWeight({}), fifo: await byWeight({ policy: firstFit }) };

const ms = (values: readonly number[]): string => `${median(values).toFixed(0)} ms`;
const rows = LOADS.flatMap((load) =>
  CASES.map(({ name, all }) => {
    const key = `${load.name} ${name}`;
    return [
      load.name,
      name,
      ms(waits.get(key)!.p50),
      ms(waits.get(key)!.p99),
      all ? median(rates.get(key)!).toFixed(0) : "",
    ];
  }),
);
const ratio = median(
  LOADS.flatMap(({ name }) =>
    rates
      .get(`${name} fair share`)!
      .map((rate, round) => rate / rates.get(`${name} first come, first served`)![round]!),
  ),
);
writeSection("fairness", [
  `Demo model, fp32, ${SLOTS} slots, 2 threads; the abuser's ${ABUSER.requests} requests are of ${ABUSER.prompt} + ${ABUSER.newTokens} tokens, the polite users' of ${EACH.prompt} + ${EACH.newTokens}. Medians of ${ROUNDS} interleaved rounds. ${machine()}.`,
  "",
  ...table(["polite users send", "policy", "their p50 TTFT", "p99 TTFT", "all, generated tokens/s"], rows),
  "",
  `Throughput of fair share over first come, first served, the same work: ${ratio.toFixed(3)}. Jain's index of service by weight, weights ${weights.join(", ")}, all with requests waiting: ${jain.fair.toFixed(4)} (first come, first served: ${jain.fifo.toFixed(4)}).`,
]);
console.log(
  rows.map((row) => row.join("  ")).join("\n"),
  `\n${ratio.toFixed(3)} ${jain.fair.toFixed(4)} ${jain.fifo.toFixed(4)}`,
);
process.exit(0);

/** The polite users' times to first token in ms, and generated tokens per second. */
async function run(
  { abuser, all, given }: (typeof CASES)[number],
  outstanding: number,
): Promise<{ ttft: number[]; tokensPerSecond: number }> {
  const engine = newEngine(runner, given);
  const ttft: number[] = [];
  const started = performance.now();
  let waiting = abuser ? ABUSER.requests : 0;
  let open = (all ? waiting : 0) + POLITE * EACH.requests;
  let generated = 0;
  await new Promise<void>((resolve, reject) => {
    const done = (): void => void (--open === 0 && resolve());
    const onError = (error: Error): void => (open > 0 ? reject(error) : undefined);
    for (let i = 0; i < waiting; i++) {
      engine.submit(
        benchRequest({
          tenant: "abuser",
          promptIds: promptOf(ABUSER.prompt, i),
          prefix: prefixes[POLITE]!,
          maxNewTokens: ABUSER.newTokens,
        }),
        {
          onStart: () => void waiting--,
          onToken: () => (generated++, "continue"),
          onFinish: all ? done : () => {},
          onError,
        },
      );
    }
    const send = (user: number, left: { requests: number }): void => {
      if (left.requests-- <= 0) return;
      const sentAt = performance.now();
      const counts = !abuser || waiting > 0;
      let first = true;
      engine.submit(
        benchRequest({
          tenant: `polite-${user}`,
          promptIds: promptOf(EACH.prompt, user * 1000 + left.requests),
          prefix: prefixes[user]!,
          maxNewTokens: EACH.newTokens,
        }),
        {
          onToken() {
            if (first && counts) ttft.push(performance.now() - sentAt);
            first = false;
            generated++;
            return "continue";
          },
          onFinish() {
            send(user, left);
            done();
          },
          onError,
        },
      );
    };
    for (let user = 0; user < POLITE; user++) {
      const left = { requests: EACH.requests };
      for (let i = 0; i < outstanding; i++) send(user, left);
    }
  });
  const tokensPerSecond = (generated * 1000) / (performance.now() - started);
  await engine.drain(0);
  return { ttft, tokensPerSecond };
}

/** Jain's index of service by weight until the first user has nothing left waiting. */
async function byWeight(given: Given): Promise<number> {
  const shares: TenantShares = {
    of: (tenant) => ({ weight: weights[Number(tenant)]!, maxRunning: null, maxQueued: null }),
  };
  const engine = newEngine(runner, { shares, ...given });
  const service = weights.map(() => 0);
  const waiting = weights.map(() => 200);
  let over = false;
  const ended = new Promise<void>((resolve) => {
    for (let i = 0; i < 200; i++) {
      for (const [user, prefix] of prefixes.slice(0, weights.length).entries()) {
        const promptIds = promptOf(16 + ((i * 7) % 32), i);
        engine.submit(benchRequest({ tenant: String(user), promptIds, prefix, maxNewTokens: 16 + ((i * 5) % 32) }), {
          onStart() {
            if (over) return;
            service[user]! += PROMPT_PRICE * promptIds.length;
            if (--waiting[user]! > 0) return;
            over = true;
            resolve();
          },
          onToken() {
            if (!over) service[user]! += OUTPUT_PRICE;
            return "continue";
          },
          onFinish() {},
          onError() {},
        });
      }
    }
  });
  await ended;
  await engine.drain(0);
  const shared = service.map((had, user) => had / weights[user]!);
  return shared.reduce((a, b) => a + b, 0) ** 2 / (shared.length * shared.reduce((a, b) => a + b * b, 0));
}

function promptOf(length: number, seed: number): Int32Array {
  return Int32Array.from({ length }, (_, index) => (index * 911 + seed * 7919 + 17) % shape.vocabSize);
}
