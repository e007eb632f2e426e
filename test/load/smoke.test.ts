/** `prefixd load` against a real server: a sound one passes, and one lie in one stream fails the run. */
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import type { LoadResult } from "../../src/load/result.ts";
import { effort } from "../support/effort.ts";
import { runCli, startServerProcess, temporaryFolder } from "../support/server.ts";
import { startLyingProxy, type Lie } from "./lying-proxy.ts";

const ADMIN_KEY = "an-admin-key-that-is-long-enough-for-a-test";
const SHAPE = ["--model-config", "models/demo/config.json"];

const folder = temporaryFolder();
t.teardown(() => folder.remove());
const server = await startServerProcess(
  ["--cache-dir", join(folder.path, "cache"), "--store", `lmdb:${join(folder.path, "store")}`],
  {
    PREFIXD_ADMIN_KEY: ADMIN_KEY,
  },
);
t.teardown(() => server.signal("SIGKILL"));

async function load(args: readonly string[]): Promise<{ code: number | string; out: string; err: string }> {
  const cli = runCli(["load", ...args], { PREFIXD_ADMIN_KEY: ADMIN_KEY });
  const code = await cli.exited;
  return { code, out: cli.stdout(), err: cli.stderr() };
}

async function left(path: string): Promise<unknown[]> {
  const body = (await (
    await fetch(server.url + path, { headers: { authorization: `Bearer ${ADMIN_KEY}` } })
  ).json()) as Record<string, unknown[]>;
  return body["users"] ?? body["prefixes"] ?? [];
}

t.test("the smoke scenario passes, writes its files and leaves nothing behind", async (t) => {
  const [json, html] = [join(folder.path, "smoke.json"), join(folder.path, "smoke.html")];
  const { code, out, err } = await load([
    "--scenario",
    "smoke",
    "--url",
    server.url,
    "--stale-ms",
    "0",
    ...SHAPE,
    "--json",
    json,
    "--html",
    html,
    ...effort({ short: ["--duration", "7"], long: [] }),
  ]);
  t.equal(code, 0, out + err);
  t.match(out, /pass {2}wrong answers/);
  t.match(out, /\nPASSED\n$/);
  const result = JSON.parse(readFileSync(json, "utf8")) as LoadResult;
  t.match(result, {
    format: "prefixd-load/1",
    passed: true,
    registered: { prefixes: 41, kind: "peft" },
    verification: { cases: 16, wrong: 0 },
    totals: { errors: {} },
  });
  t.ok(result.verification.compared >= 50);
  for (const change of ["replaced", "registered", "recreated", "users removed"])
    t.ok((result.churn[change] ?? 0) > 0, change);
  t.ok((result.totals.provoked["prefix_not_found"] ?? 0) > 0, "the poisoned prefix was not taken in");
  t.ok(result.servers[0]!.queue !== null && result.servers[0]!.samples.length > 2, "the server's metrics were read");
  t.ok(existsSync(html));
  t.same(await left("/admin/users"), []);
  t.same(await left("/prefixes"), []);
});

const LIES: readonly [Lie, string][] = [
  ["token", "tokens differ from the run alone"],
  ["digest", "the prefix's digest was not registered at that time"],
  ["logprob", "log probabilities differ from the run alone"],
  ["base", "a prefix was requested, but the bare base model answered"],
];
for (const [lie, found] of LIES.slice(0, effort({ short: 1, long: 4 }))) {
  t.test(`one changed ${lie} fails the run`, async (t) => {
    const proxy = await startLyingProxy(server.url, lie);
    t.teardown(() => proxy.close());
    const { code, out } = await load([
      "--scenario",
      "smoke",
      "--url",
      proxy.url,
      "--stale-ms",
      "0",
      ...SHAPE,
      "--duration",
      "3",
      "--rate",
      "15",
    ]);
    t.equal(proxy.lies(), 1);
    t.equal(code, 1);
    t.match(out, new RegExp(`WRONG ANSWER 1 of 1: ${found}`));
    for (const part of ['"request": {', '"prompt": [', '"expected":', '"got":']) t.ok(out.includes(part), part);
    t.match(out, /FAIL {2}wrong answers/);
    t.match(out, /error rate \(other codes\)/);
    t.match(out, /\nFAILED\n$/);
  });
}

t.test("bad usage exits 2, an absent server 1", async (t) => {
  t.match(await load(["--scenario", "none"]), { code: 2, err: /neither a file nor one of smoke/ });
  t.match(await load(["--scenario", "smoke", "--url", "http://127.0.0.1:1"]), { code: 1, err: /ECONNREFUSED/ });
});
