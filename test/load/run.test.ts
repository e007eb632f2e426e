/** Whole runs against a server that does what a test needs of it. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import t, { type Test } from "tap";
import { startFakePrefixd, type FakeOptions, type FakePrefixd } from "./fake-prefixd.ts";
import type { Scenario } from "../../src/load/scenario.ts";
import { bareNode, SOURCES } from "../support/program.ts";
import { runCli } from "../support/server.ts";
import { load, scenarioOf, STREAMS } from "./options.ts";

async function fake(t: Test, options: FakeOptions = {}): Promise<FakePrefixd> {
  const server = await startFakePrefixd(options);
  t.teardown(() => server.close());
  return server;
}

t.test(
  "an open loop counts from the intended start: a stall of one second shows in every request that fell in it",
  async (t) => {
    const server = await fake(t, { stall: { atRequest: 101, ms: 1000 } });
    const result = await load(
      server.url,
      scenarioOf([
        { name: "open", arrivals: { process: "poisson", steps: [{ for_s: 3, rate: 100 }] }, requests: STREAMS },
      ]),
    );
    t.ok(result.passed, JSON.stringify(result.totals));
    // A third of the requests come during the stall, half of those at least half a second before it ends: more than a tenth of all.
    t.ok(result.ttft.p90 >= 500, `p90 ${result.ttft.p90}`);
    t.ok(result.ttft.p99 >= 900, `p99 ${result.ttft.p99}`);
    t.ok(result.totals.within_slo < 0.75 * result.totals.requests, "goodput tells it, too");
    t.ok(
      result.series.some((bucket) => (bucket.ttft_p99 ?? 0) >= 900) &&
        result.series.some((bucket) => bucket.offered > 0 && bucket.completed === 0),
      "and so does the time series",
    );
  },
);

t.test("a client that cannot keep up counts late requests as late, and reports its lag", async (t) => {
  const server = await fake(t);
  const block = setTimeout(() => {
    const until = performance.now() + 600;
    while (performance.now() < until);
  }, 700);
  t.teardown(() => clearTimeout(block));
  const result = await load(
    server.url,
    scenarioOf([
      { name: "open", arrivals: { process: "poisson", steps: [{ for_s: 2, rate: 100 }] }, requests: STREAMS },
    ]),
  );
  t.ok(result.client.lag_max >= 500, `lag ${result.client.lag_max}`);
  t.ok(result.client.send_delay_p99 >= 300, `sent late ${result.client.send_delay_p99}`);
  t.ok(result.ttft.p99 >= 300);
});

t.test("a thousand streams at once", async (t) => {
  const child = spawn(...bareNode(...SOURCES, new URL("fake-prefixd-process.ts", import.meta.url).pathname, "1000"), {
    stdio: ["ignore", "pipe", "inherit"],
  });
  t.teardown(() => child.kill("SIGKILL"));
  const [url] = (await once(createInterface({ input: child.stdout }), "line")) as [string];
  const dir = mkdtempSync(join(tmpdir(), "prefixd-load-"));
  t.teardown(() => rmSync(dir, { recursive: true }));
  const trace = join(dir, "trace.jsonl");
  writeFileSync(trace, '{"at_s": 0, "prompt_tokens": 2, "max_new_tokens": 20}\n'.repeat(1000));
  const result = await load(
    url,
    scenarioOf([{ name: "many", users: 1000, arrivals: { process: "trace" }, requests: { trace } }]),
  );
  t.equal(result.client.most_in_flight, 1000);
  t.match(result.totals, { requests: 1000, ok: 1000, tokens: 20_000, errors: {} });
  t.match(result.groups, [{ jain: 1 }]);
  t.equal(result.inter_token.count, 19_000);
  t.comment(
    `client lag p99 ${result.client.lag_p99} ms, inter-token p50 ${result.inter_token.p50} ms, p99 ${result.inter_token.p99} ms where 50 ms were sent`,
  );
});

t.test("every error has its code; provoked errors are counted apart", async (t) => {
  const server = await fake(t, {
    intercept: ({ prompt, stream }, response) => {
      const kind = prompt[0]! % 5;
      if (kind === 0) response.writeHead(429, { "retry-after": "1" }).end(JSON.stringify({ code: "queue_full" }));
      else if (kind === 1 && stream === true)
        response
          .writeHead(200, { "content-type": "text/event-stream" })
          .end(`event: error\ndata: ${JSON.stringify({ code: "model_failed" })}\n\n`);
      else if (kind === 2 && stream === true)
        response.writeHead(200, { "content-type": "text/event-stream" }).end("data: {\n\n");
      else if (kind === 3) response.destroy();
      else return false;
      return true;
    },
  });
  const groups = [
    {
      name: "open",
      arrivals: { process: "poisson" as const, steps: [{ for_s: 1, rate: 200 }] },
      requests: { prompt_tokens: 2, max_new_tokens: 10, disconnects: { share: 0.3, after_tokens: 2 } },
    },
  ];
  const result = await load(server.url, scenarioOf(groups, { pass: { error_rate: { queue_full: 1, "*": 0.1 } } }));
  for (const code of ["queue_full", "model_failed", "malformed", "connection"])
    t.ok(result.totals.errors[code]! > 5, `${code}: ${result.totals.errors[code]}`);
  t.same(Object.keys(result.totals.provoked), ["disconnected"]);
  t.match(
    result.criteria.find(({ name }) => name === "error rate queue_full"),
    { passed: true },
  );
  t.match(
    result.criteria.find(({ name }) => name === "error rate (other codes)"),
    { passed: false },
  );
  t.notOk(result.passed);
  const { requests, ok, errors, provoked } = result.totals;
  const sum = [...Object.values(errors), ...Object.values(provoked)].reduce((a, b) => a + b, ok);
  t.equal(sum, requests, "nothing is lost");
});

const MODEL = { model: "demo", layers: 2, heads: 2, head_dim: 4, vocab_size: 300, device: "cpu", precision: "fp32" };

t.test("the server gives its model; flags override it", async (t) => {
  const served = { ...MODEL, limits: { max_batch: 4, max_queue: 8 } };
  const sizes: number[] = [];
  const server = await fake(t, {
    model: served,
    intercept: ({ prompt }) => {
      sizes.push(Math.max(...prompt));
      return false;
    },
  });
  const scenario = scenarioOf([
    {
      name: "g",
      arrivals: { process: "poisson", steps: [{ for_s: 1, rate: 100 }] },
      requests: { prompt_tokens: 50, max_new_tokens: 1 },
    },
  ]);
  const given = { shape: null, vocabulary: null };
  t.match(await load(server.url, scenario, { model: given }), {
    registered: { kind: "peft" },
    model: served,
    passed: true,
  });
  t.ok(Math.max(...sizes) >= 256 && Math.max(...sizes) < 300, "token ids of the whole vocabulary");
  sizes.length = 0;
  await load(server.url, scenario, { model: { ...given, vocabulary: 10 } });
  t.equal(Math.max(...sizes), 9);
  const silent = await fake(t);
  t.match(await load(silent.url, scenario, { model: given }), { registered: { kind: "hard" }, model: null });
});

t.test("rates follow from what a closed loop achieves", async (t) => {
  const server = await fake(t, {
    model: { ...MODEL, limits: { max_batch: 4, max_queue: 1_000_000 } },
    // Longer answers are always too much for it.
    intercept: ({ max_new_tokens }, response) => {
      if (max_new_tokens === 1) return false;
      response.writeHead(429, { "retry-after": "1" }).end(JSON.stringify({ code: "queue_full" }));
      return true;
    },
  });
  const group = (name: string, max_new_tokens: number, rate: number): Scenario["groups"][number] => ({
    name,
    arrivals: {
      process: "poisson",
      steps: [
        { for_s: 0.5, rate: rate / 2 },
        { for_s: 0.5, rate },
      ],
    },
    requests: { prompt_tokens: 2, max_new_tokens },
  });
  const scenario = scenarioOf([group("g", 1, 10)], {
    peak_of_capacity: 0.5,
    slo: { ttft_ms: 1, inter_token_ms: 100 },
    pass: {},
  });
  const times = { warmUpS: 0.2, measuredS: 1 };
  const result = await load(server.url, scenario, { calibrate: times });
  const { capacity } = result;
  t.equal(capacity!.clients, 5, "a quarter more than there are slots");
  t.equal(capacity!.tokens_per_s, capacity!.requests_per_s, "a token each");
  const scaled = result.scenario.groups[0]!.arrivals as { steps: { rate: number }[] };
  t.same(
    scaled.steps.map(({ rate }) => Math.round(rate * 1000)),
    [0.25, 0.5].map((share) => Math.round(share * capacity!.requests_per_s * 1000)),
    "the shape stays",
  );
  t.match(result.notes.join(), /A full queue \(--max-queue 1000000\) takes/);
  await t.rejects(
    load(server.url, scenarioOf([group("g", 2, 10)], { peak_of_capacity: 1 }), { calibrate: times }),
    /no request was answered/,
  );
  await t.rejects(load(server.url, scenarioOf([group("g", 1, 10)]), { calibrate: times }), /no peak_of_capacity/);
  const closed = {
    name: "g",
    arrivals: { process: "closed" as const, steps: [{ for_s: 1, clients: 1 }] },
    requests: STREAMS,
  };
  await t.rejects(
    load(server.url, scenarioOf([closed], { peak_of_capacity: 1 }), { calibrate: times }),
    /no open loop/,
  );
  t.equal(server.prefixes.size, 0, "and everything is tidied up");
});

const MOMENTS: [string, RegExp, string[]][] = [
  ["while prefixes are registered", /registering/, []],
  ["before the load", /running cases/, []],
  ["while the capacity is measured", /capacity/, ["--calibrate"]],
  ["in the load", /load for/, []],
];
for (const [when, phase, more] of MOMENTS) {
  t.test(`Ctrl-C ${when} removes what was made`, async (t) => {
    const server = await fake(t, { tokenMs: 20, model: { ...MODEL, limits: { max_batch: 4, max_queue: 8 } } });
    const cli = runCli([
      "load",
      "--scenario",
      "steady",
      "--url",
      server.url,
      "--stale-ms",
      "0",
      "--prefixes",
      "300",
      ...more,
    ]);
    let said = "";
    cli.child.stderr!.on("data", (text: string) => {
      if (phase.test(said) || !phase.test((said += text))) return;
      // Twice, as a terminal and npx do it.
      cli.child.kill("SIGINT");
      cli.child.kill("SIGINT");
    });
    t.equal(await cli.exited, 1);
    t.match(cli.stderr(), /removing users and prefixes/);
    t.equal(server.prefixes.size, 0);
  });
}

t.test("a server's open files at rest are read before and after, where criteria need them", async (t) => {
  const server = await fake(t);
  const groups = [
    { name: "g", arrivals: { process: "poisson" as const, steps: [{ for_s: 0.5, rate: 50 }] }, requests: STREAMS },
  ];
  const rest = { open_files: 20, active_resources: 5, event_listeners: 0 };
  const judged = await load(server.url, scenarioOf(groups, { pass: { left_over: 0 } }));
  t.match(judged, { passed: true, servers: [{ at_rest: { before: rest, after: rest } }] });
  t.match(await load(server.url, scenarioOf(groups)), { servers: [{ at_rest: { before: null, after: null } }] });
});

t.test("a run that ends early or cannot begin leaves nothing on the server", async (t) => {
  const server = await fake(t, { tokenMs: 50 });
  const ended = new AbortController();
  const groups = [
    {
      name: "closed",
      arrivals: { process: "closed" as const, steps: [{ for_s: 60, clients: 3 }] },
      requests: { prompt_tokens: 2, max_new_tokens: 1000 },
    },
  ];
  setTimeout(() => ended.abort(), 500);
  const result = await load(server.url, scenarioOf(groups), { signal: ended.signal });
  t.match(result, { totals: { requests: 3, provoked: { disconnected: 3 } }, notes: [/.*/, "Interrupted."] });
  t.equal(server.prefixes.size, 0);
  await t.rejects(load("http://127.0.0.1:1", scenarioOf(groups)), { name: "LoadError", message: /ECONNREFUSED/ });
  await t.rejects(load(server.url, scenarioOf(groups, { needs_users: true })), {
    name: "ScenarioError",
    message: /admin key/,
  });
  await t.rejects(
    load(
      server.url,
      scenarioOf(groups, { prefixes: { count: 2, kind: "peft", virtual_tokens: 1, popularity: "uniform" } }),
    ),
    { name: "ScenarioError", message: /shape/ },
  );
});
