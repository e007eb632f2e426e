/**
 * How long does each route block the event loop, at worst? The real server with the demo model in its own process, and
 * a store whose prefixes are shared with a thousand users each. For every route, an ordinary request and the worst that
 * it accepts (test/support/route-loads.ts): the processor time of the longest turn, the least of ROUNDS (3).
 *
 *     PREFIXD_TESTS=long npm run bench -- event-loop        (Linux or Node 23.9)
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MeteredServer } from "../test/support/metered-server.ts";
import { ROOT } from "../test/support/program.ts";
import { fillStore, LOAD_ADMIN_KEY, routeLoads, send } from "../test/support/route-loads.ts";
import { CACHE } from "./support/gpt2.ts";
import { machine, table, writeSection } from "./support/report.ts";

const ROUNDS = Number(process.env["ROUNDS"] ?? 3);

const dir = mkdtempSync(join(tmpdir(), "prefixd-event-loop-"));
await fillStore(dir);
const server = await MeteredServer.start(
  [
    ...["--store", `lmdb:${dir}`, "--cache-dir", CACHE, "--threads", "1", "--training", "on"],
    ...["--chat-template", join(ROOT, "test/golden/chat/chatml.jinja")],
  ],
  { PREFIXD_ADMIN_KEY: LOAD_ADMIN_KEY },
);
const worst = new Map<string, { share: number; what: string }>();
try {
  const { n_positions } = (await (
    await fetch(`${server.url}/model`, { headers: { authorization: `Bearer ${LOAD_ADMIN_KEY}` } })
  ).json()) as { n_positions: number };
  for (const load of routeLoads(n_positions, join(ROOT, "prefixes/intent"))) {
    let share = Infinity;
    for (let round = 0; round < ROUNDS; round++) {
      await server.longestTurn();
      await send(server.url, load);
      share = Math.min(share, await server.longestTurn());
    }
    if (share > (worst.get(load.route)?.share ?? 0)) worst.set(load.route, { share, what: load.what });
  }
} finally {
  await server.close();
  rmSync(dir, { recursive: true });
}
const rows = [...worst].map(([route, { share, what }]) => [`\`${route}\``, (50 * share).toFixed(1), what]);
const lines = [
  `For each route, the request with the longest turn: processor time of the event loop's thread, scaled by a fixed amount of work to the machine of the other figures, the least of ${ROUNDS}. \`test/integration/event-loop.test.ts\` holds all of them to 50 ms. Demo model, ${machine()}.`,
  "",
  ...table(["route", "longest turn, ms", "of"], rows),
];
console.log(lines.join("\n"));
if (process.env["DRY"] === undefined) writeSection("event-loop", lines);
