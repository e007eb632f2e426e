/**
 * Three servers on one Redis behind HAProxy with docker/haproxy.cfg, under load: one is killed with -9 and restarted,
 * then each is restarted in turn. Every answer must be bit-equal to the one from before.
 */
import { setTimeout as sleep } from "node:timers/promises";
import t, { type Test } from "tap";
import { effort } from "../support/effort.ts";
import { ask, BalancedLoad, type Call, type Case, type Generated } from "../support/balanced-load.ts";
import { startHaproxy, type TestBalancer } from "../support/haproxy.ts";
import { freePort } from "../support/free-port.ts";
import { startRedis } from "../support/redis.ts";
import { lacking } from "../support/requirements.ts";
import { startServerProcess, temporaryFolder, type TestServer } from "../support/server.ts";

const REPLICAS = ["replica-1", "replica-2", "replica-3"] as const;
const CLIENTS = effort({ short: 8, long: 12 });
const PREFIXES = effort({ short: 5, long: 9 });
const TOKENS = effort({ short: 30, long: 50 });
/** Between a client's requests while replicas start, in milliseconds: those starts take what the load leaves. */
const PAUSE = effort({ short: 800, long: 0 });

class Deployment {
  readonly servers: (TestServer | null | undefined)[] = [null, null, null];
  readonly #ports: readonly number[];
  readonly #args: readonly string[];

  constructor(ports: readonly number[], args: readonly string[]) {
    this.#ports = ports;
    this.#args = args;
  }

  async start(index: number): Promise<void> {
    this.servers[index] = await startServerProcess(["--port", String(this.#ports[index]), ...this.#args]);
  }

  /** Ends the replica with the signal; returns its exit code. */
  async end(index: number, signal: NodeJS.Signals): Promise<number | string> {
    const server = this.servers[index];
    if (!server) return "not running";
    this.servers[index] = null;
    server.signal(signal);
    return server.exited;
  }
}

async function deploy(t: Test): Promise<{ deployment: Deployment; balancer: TestBalancer; cases: Case[] }> {
  const [redis, folder] = [await startRedis(), temporaryFolder()];
  const ports = [await freePort(), await freePort(), await freePort()];
  const deployment = new Deployment(ports, [
    "--store",
    redis.url,
    "--threads",
    "1",
    "--cache-dir",
    folder.path,
    "--log-level",
    "info",
  ]);
  t.teardown(async () => {
    await Promise.all(REPLICAS.map((_, index) => deployment.end(index, "SIGKILL")));
    await redis.stop();
    folder.remove();
  });
  // The first server builds the graph; the others find it.
  await deployment.start(0);
  await Promise.all([deployment.start(1), deployment.start(2)]);
  const balancer = await startHaproxy(ports);
  t.teardown(() => balancer.stop());
  const cases = Array.from(
    { length: PREFIXES },
    (_, index): Case => ({ prefix: `p${index}`, prompt: [40 + index, 7, 200 - index], tokens: TOKENS }),
  );
  for (const [index, { prefix }] of cases.entries()) {
    const body = JSON.stringify({ token_ids: Array.from({ length: 3 + index }, (_, at) => 60 + 5 * index + at) });
    const { status } = await fetch(`${balancer.url}/prefixes/${prefix}`, {
      method: "PUT",
      headers: { "content-type": "application/json" },
      body,
    });
    if (status !== 201) throw new Error(`PUT ${prefix}: ${status}`);
  }
  return { deployment, balancer, cases };
}

const isEqual = (got: Generated, expected: Generated): boolean =>
  got.ids.length === expected.ids.length &&
  got.ids.every((id, index) => id === expected.ids[index] && got.logprobs[index] === expected.logprobs[index]);

const isBeginning = (got: Generated, expected: Generated): boolean =>
  isEqual(got, {
    ids: expected.ids.slice(0, got.ids.length),
    logprobs: expected.logprobs.slice(0, got.logprobs.length),
  });

const skip = lacking("redis-server", "haproxy");

t.test("replicas behind HAProxy", { skip, timeout: 280_000 }, async (t) => {
  const { deployment, balancer, cases } = await deploy(t);
  const expected = new Map<string, Generated>();
  const wrong = (calls: readonly Call[]): Call[] =>
    calls.filter((call) => call.end === "ok" && !isEqual(call, expected.get(call.case.prefix)!));
  const failed = (calls: readonly Call[]): Call[] => calls.filter(({ end }) => end !== "ok" && end !== null);

  await t.test("a prefix has one replica, however it is named, and all replicas give the same answers", async (t) => {
    const homes = new Map<string, (string | null)[]>();
    for (const one of cases) {
      for (const byPath of [true, false, true, false]) {
        // Wait until idle: with bounded load, a request may go to the next replica while another one still counts.
        await balancer.idle();
        const call = await ask(balancer.url, one, { byPath });
        expected.set(one.prefix, expected.get(one.prefix) ?? call);
        homes.set(one.prefix, [...(homes.get(one.prefix) ?? []), call.replica]);
        t.same([call.end, call.ids.length, isEqual(call, expected.get(one.prefix)!)], ["ok", TOKENS, true]);
      }
      for (const server of deployment.servers)
        t.ok(isEqual(await ask(server!.url, one), expected.get(one.prefix)!), `${one.prefix} at ${server!.url}`);
    }
    t.same(
      [...homes].filter(([, replicas]) => new Set(replicas).size > 1),
      [],
      "a prefix has one replica",
    );
    t.ok(new Set([...homes.values()].flat()).size > 1, "not all the same one");
    const nobody = new Set<string | null>();
    for (let request = 0; request < 20; request++)
      nobody.add((await fetch(`${balancer.url}/prefixes`)).headers.get("x-prefixd-replica"));
    t.ok(nobody.size > 1, "what names no prefix goes anywhere");
  });

  await t.test("kill -9 loses the replica's open streams and nothing else", async (t) => {
    const load = new BalancedLoad(balancer.url, cases, CLIENTS);
    await load.more(effort({ short: 24, long: 60 }));
    // Choose a replica in the middle of at least two streams.
    const begun = (): Call[] => load.calls.filter((call) => call.end === null && call.streamed && call.ids.length > 0);
    const busiest = (): number =>
      REPLICAS.findIndex((name) => begun().filter(({ replica }) => replica === name).length >= 2);
    while (busiest() < 0) await sleep(1);
    const victim = busiest();
    const open = load.calls.filter(({ end }) => end === null);
    const killed = deployment.end(victim, "SIGKILL");
    t.equal(await killed, "SIGKILL");
    await load.more(effort({ short: 50, long: 150 }));
    const lost = failed(load.calls);
    t.comment(
      `${open.length} requests were open, ${lost.length} lost: ${lost.map(({ end, ids }) => `${end} after ${ids.length} tokens`).join(", ")}`,
    );
    t.ok(lost.length > 0, "there were some");
    for (const call of lost) {
      t.match(call, { streamed: true, end: "cut", replica: REPLICAS[victim] });
      t.ok(open.includes(call) || call.startedAt > open.at(-1)!.startedAt, "it was open then");
      t.ok(isBeginning(call, expected.get(call.case.prefix)!), "and right as far as it came");
    }
    const retried = await Promise.all(lost.map((call) => ask(balancer.url, call.case, { streamed: true })));
    t.same(
      retried.map((call) => [call.end, isEqual(call, expected.get(call.case.prefix)!)]),
      lost.map(() => ["ok", true]),
      "asked again, they are answered",
    );
    const last = load.calls.filter(({ end }) => end === "ok").slice(-effort({ short: 30, long: 100 }));
    t.notOk(
      last.some(({ replica }) => replica === REPLICAS[victim]),
      "the others have all of it",
    );

    const before = load.calls.length;
    load.pause = PAUSE;
    await deployment.start(victim);
    await load.answeredBy(REPLICAS[victim]!);
    await load.more(effort({ short: 20, long: 50 }));
    await load.stop();
    t.same(failed(load.calls.slice(before)), [], "nobody notices that it comes back");
    t.same(wrong(load.calls), [], "all answers are equal to the bit");
  });

  await t.test("a replica drained at the balancer gets no new requests", async (t) => {
    await balancer.command("set server replicas/replica-2 state drain");
    const load = new BalancedLoad(balancer.url, cases, CLIENTS);
    await load.more(effort({ short: 24, long: 60 }));
    t.same(
      load.calls.filter(({ replica }) => replica === "replica-2"),
      [],
    );
    await balancer.command("set server replicas/replica-2 state ready");
    load.pause = PAUSE;
    await load.answeredBy("replica-2");
    await load.stop();
    t.same([failed(load.calls), wrong(load.calls)], [[], []]);
  });

  await t.test("no client sees an error during a rolling restart", async (t) => {
    const load = new BalancedLoad(balancer.url, cases, CLIENTS);
    await load.more(effort({ short: 16, long: 30 }));
    load.pause = PAUSE;
    for (const [index, name] of REPLICAS.entries()) {
      t.equal(await deployment.end(index, "SIGTERM"), 0, `${name} ends by itself`);
      await deployment.start(index);
      await load.answeredBy(name);
    }
    await load.stop();
    t.comment(`${load.calls.length} requests`);
    t.same(failed(load.calls), []);
    t.same(wrong(load.calls), []);
  });
});
