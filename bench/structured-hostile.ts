/**
 * What do hostile constraints cost others?
 *
 *     npm run bench -- structured-hostile
 *
 * A real server with the demo model. One user has 32 streams, another sends PER_SECOND (20) requests a second with
 * constraints that are made to be expensive, all of them different, so that none is known from before.
 */
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { machine, quantile, table, writeSection } from "./support/report.ts";
import { build, newUser, residentBytes } from "./support/server-process.ts";
import { startVictim, type Flow } from "./support/victim.ts";
import { startServerProcess, temporaryFolder } from "../test/support/server.ts";

const PER_SECOND = Number(process.env["PER_SECOND"] ?? 20);
const SECONDS = Number(process.env["SECONDS"] ?? 15);
const STREAMS = 32;
const ADMIN_KEY = "bench-admin-key-0123456789abcdef0123456789";

const nested = (depth: number, wrap: (inner: unknown) => unknown): unknown => {
  let schema: unknown = { type: "string" };
  for (let i = 0; i < depth; i++) schema = wrap(schema);
  return schema;
};
const listOf = (count: number, text: (index: number) => unknown): unknown[] =>
  Array.from({ length: count }, (_, i) => text(i));

/** As JSON, or what becomes that. `n` makes each one new. */
const HOSTILE: Readonly<Record<string, (n: number) => object | string>> = {
  "`(x+x+)+y`": (n) => ({ regex: `(x+x+)+y${n}` }),
  "`(a{1,1000}){1,1000}`": (n) => ({ regex: `(a{1,1000}){1,${1000 + n}}` }),
  "`(a|b|ab)*` 30 times": (n) => ({ regex: `${"(a|b|ab)*c".repeat(30)}${n}` }),
  "`[\\s\\S]{0,N}x[\\s\\S]{0,N}`": (n) => ({ regex: `[\\s\\S]{0,${500 + n}}x[\\s\\S]{0,${500 + n}}` }),
  "anyOf, 30 deep": (n) => ({
    json: nested(30, (inner) => ({ anyOf: [inner, { const: n }] })),
  }),
  // Too deep for JSON.stringify.
  "arrays, 5,000 deep": (n) => `{"json":${'{"type":"array","items":'.repeat(5000)}{"const":${n}}${"}".repeat(5000)}}`,
  "100,000 choices": (n) => ({ choice: listOf(100_000, (i) => `${n} ${i}`) }),
  "1,000 long choices": (n) => ({ choice: listOf(1000, (i) => `${"abc ".repeat(50)}${n} ${i}`) }),
  "`$ref` to itself": (n) => ({ json: { $ref: "#", title: String(n) } }),
  "5,000 optional properties": (n) => ({
    json: {
      type: "object",
      properties: Object.fromEntries(listOf(5000, (i) => [`p${n}x${i}`, { type: "string" }]) as [string, object][]),
      additionalProperties: false,
    },
  }),
  "30 optional properties with patterns": (n) => ({
    json: {
      type: "object",
      properties: Object.fromEntries(
        listOf(30, (i) => [`p${n}x${i}`, { type: "string", pattern: `^(a|b|ab)*${i}$` }]) as [string, object][],
      ),
      additionalProperties: false,
    },
  }),
};

build();
const folder = temporaryFolder();
const server = await startServerProcess(
  ["--store", `lmdb:${join(folder.path, "store")}`, "--cache-dir", folder.path, "--max-batch", "48"],
  { PREFIXD_ADMIN_KEY: ADMIN_KEY },
);
const headers = (key: string): Record<string, string> => ({
  authorization: `Bearer ${key}`,
  "content-type": "application/json",
});
const rss = (): number => residentBytes(server.pid) / 2 ** 20;

const [victimKey, mallory] = [
  await newUser(server.url, ADMIN_KEY, { id: "victim" }),
  await newUser(server.url, ADMIN_KEY, { id: "mallory" }),
];
const answers = new Map<string, Map<string, number>>();
const times = new Map<string, number[]>();
/** Sends one kind after the other, evenly; waits for what is still under way. */
async function attack(kinds: readonly string[], seconds: number): Promise<void> {
  const sent: Promise<void>[] = [];
  const started = performance.now();
  for (let n = 0; n < PER_SECOND * seconds; n++) {
    const name = kinds[n % kinds.length]!;
    const constraint = HOSTILE[name]!(1000 + n);
    const text = typeof constraint === "string" ? constraint : JSON.stringify(constraint);
    const body = `{"prompt":"once","max_new_tokens":16,"do_sample":true,"structured_outputs":${text}}`;
    sent.push(
      (async () => {
        const asked = performance.now();
        const response = await fetch(`${server.url}/generate`, { method: "POST", headers: headers(mallory), body });
        const answer = (await response.json()) as { code?: string; choices?: { finish_reason: string }[] };
        const what = response.ok ? "200" : `${response.status} ${answer.code}`;
        const counts = answers.get(name) ?? new Map<string, number>();
        answers.set(name, counts.set(what, (counts.get(what) ?? 0) + 1));
        times.set(name, [...(times.get(name) ?? []), performance.now() - asked]);
      })(),
    );
    await sleep(Math.max(0, started + (1000 * (n + 1)) / PER_SECOND - performance.now()));
  }
  await Promise.all(sent);
}

const victim = await startVictim({ url: server.url, key: victimKey, tokens: 200, streams: STREAMS });
const names = Object.keys(HOSTILE);
const plain = async (): Promise<void> => {
  // The same number of ordinary requests: what is compared is the constraint.
  const started = performance.now();
  const sent: Promise<unknown>[] = [];
  const body = JSON.stringify({ prompt: "once", max_new_tokens: 16, do_sample: true });
  for (let n = 0; n < PER_SECOND * SECONDS; n++) {
    sent.push(
      fetch(`${server.url}/generate`, { method: "POST", headers: headers(mallory), body }).then((answer) =>
        answer.text(),
      ),
    );
    await sleep(Math.max(0, started + (1000 * (n + 1)) / PER_SECOND - performance.now()));
  }
  await Promise.all(sent);
};
try {
  // Compiles what the server runs.
  await attack(names, 5);
  answers.clear();
  times.clear();
  const alone = (await victim.during(() => sleep(1000 * SECONDS), 0)).flow;
  const beside = (await victim.during(plain, 0)).flow;
  const before = rss();
  let most = before;
  const watch = setInterval(() => (most = Math.max(most, rss())), 100);
  const hostile = (await victim.during(() => attack(names, SECONDS), 0)).flow;
  clearInterval(watch);
  await victim.stop();
  await sleep(10_000);
  const after = rss();
  const flow = (name: string, { tokensPerSecond, p99Ms, longestGapMs, failures }: Flow): string[] => [
    name,
    tokensPerSecond.toFixed(0),
    p99Ms.toFixed(1),
    longestGapMs.toFixed(0),
    String(failures),
  ];
  const text = [
    ...table(
      ["beside", "tokens/s of the 32 streams", "p99 ITL, ms", "longest gap, ms", "failed"],
      [
        flow("nobody", alone),
        flow(`${PER_SECOND} ordinary requests a second`, beside),
        flow(`${PER_SECOND} hostile requests a second`, hostile),
      ],
    ),
    "",
    ...table(
      ["constraint", "answers", "median, ms", "longest, ms"],
      names.map((name) => [
        name.replaceAll("|", "\\|"),
        [...answers.get(name)!].map(([what, count]) => `${count} x ${what}`).join(", "),
        quantile(times.get(name)!, 0.5).toFixed(0),
        Math.max(...times.get(name)!).toFixed(0),
      ]),
    ),
    "",
    `RSS: ${before.toFixed(0)} MiB before, ${most.toFixed(0)} at most, ${after.toFixed(0)} ten seconds after.`,
  ];
  console.log(text.join("\n"));
  if (process.env["DRY"] === undefined)
    writeSection("structured-hostile", [
      `Demo model on a server of its own, 48 slots; another user has ${STREAMS} streams. Each of the hostile constraints is a new one, ${SECONDS} seconds. ${machine()}.`,
      "",
      ...text,
    ]);
} finally {
  server.signal("SIGTERM");
  await server.exited;
  folder.remove();
}
process.exit(0);
