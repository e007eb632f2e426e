/**
 * Does the response time reveal whether another user's prefix exists?
 *
 *     npm run bench -- foreign-ids        (needs redis-server)
 *
 * A user asks real servers on LMDB and on Redis, over loopback and in random order, for another user's unshared
 * prefixes, for ids which that user does not have, and for ids of a user who does not exist. All are 404. Besides
 * medians: how often a request of the first kind took longer than one of another kind; 0.5 is a coin toss.
 */
import { join } from "node:path";
import { build, newUser } from "./support/server-process.ts";
import { machine, median, table, writeSection } from "./support/report.ts";
import { startRedis } from "../test/support/redis.ts";
import { startServerProcess, temporaryFolder } from "../test/support/server.ts";

const ASKS = Number(process.env["ASKS"] ?? 2000);
const IDS = 50;
const KINDS = ["another's, not shared", "another's, not there", "of no user"] as const;
const ADMIN_KEY = "bench-admin-key-0123456789abcdef0123456789";

build();
const folder = temporaryFolder();
const redis = await startRedis();
const rows: string[][] = [];
try {
  for (const [name, store] of [
    ["LMDB", `lmdb:${join(folder.path, "store")}`],
    ["Redis", redis.url],
  ] as const)
    rows.push(...(await measured(name, store)));
} finally {
  await redis.stop();
  folder.remove();
}
const text = table(["store", "the id", "median, ms", "share of pairs in which the first kind takes longer"], rows);
console.log(text.join("\n"));
writeSection("foreign-ids", [
  `${ASKS} requests of each kind in random order, one at a time. ${machine()}.`,
  "",
  ...text,
]);
process.exit(0);

async function measured(name: string, store: string): Promise<string[][]> {
  const server = await startServerProcess(["--store", store, "--cache-dir", folder.path, "--threads", "2"], {
    PREFIXD_ADMIN_KEY: ADMIN_KEY,
  });
  try {
    const call = async (key: string, method: string, path: string, body?: object): Promise<Response> => {
      const headers = {
        authorization: `Bearer ${key}`,
        ...(body === undefined ? {} : { "content-type": "application/json" }),
      };
      return fetch(server.url + path, {
        method,
        headers,
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
    };
    const [ann, ben] = [
      await newUser(server.url, ADMIN_KEY, { id: "ann" }),
      await newUser(server.url, ADMIN_KEY, { id: "ben" }),
    ];
    for (let i = 0; i < IDS; i++)
      if (!(await call(ann, "PUT", `/prefixes/have-${i}`, { text: `prompt ${i}` })).ok)
        throw new Error("a prefix was refused");
    const ids = [(i: number) => `ann/have-${i}`, (i: number) => `ann/lack-${i}`, (i: number) => `eve/have-${i}`];
    const times: number[][] = KINDS.map(() => []);
    for (let ask = -300; ask < ASKS * KINDS.length; ask++) {
      const kind = Math.floor(Math.random() * KINDS.length);
      const path = `/prefixes/${encodeURIComponent(ids[kind]!(Math.floor(Math.random() * IDS)))}`;
      const started = performance.now();
      const response = await call(ben, "GET", path);
      await response.arrayBuffer();
      const took = performance.now() - started;
      if (response.status !== 404) throw new Error(`${path}: ${response.status}`);
      if (ask >= 0) times[kind]!.push(took);
    }
    return KINDS.map((kind, index) => [
      name,
      kind,
      median(times[index]!).toFixed(3),
      index === 0 ? "" : longer(times[0]!, times[index]!).toFixed(2),
    ]);
  } finally {
    server.signal("SIGTERM");
    await server.exited;
  }
}

/** The share of pairs in which the first takes longer. */
function longer(some: readonly number[], others: readonly number[]): number {
  let sum = 0;
  for (const a of some) for (const b of others) sum += a > b ? 1 : a === b ? 0.5 : 0;
  return sum / (some.length * others.length);
}
