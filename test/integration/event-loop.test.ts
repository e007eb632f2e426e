/** No request, not even the most expensive of its route, blocks the real server's event loop for more than 50 ms. */
import { join } from "node:path";
import t from "tap";
import { openapiDocument } from "../../src/http/docs/openapi.ts";
import { documentationApp } from "../../src/http/docs/app.ts";
import { MeteredServer } from "../support/metered-server.ts";
import { ROOT } from "../support/program.ts";
import { skipFileWithout } from "../support/requirements.ts";
import { repositoryFile } from "../support/docs-block.ts";
import { fillStore, LOAD_ADMIN_KEY, routeLoads, send } from "../support/route-loads.ts";

skipFileWithout(t, "thread-time");

t.test("no route blocks the event loop", { timeout: 600_000 }, async (t) => {
  const dir = t.testdir();
  await fillStore(join(dir, "store"));
  const server = await MeteredServer.start(
    [
      "--store",
      `lmdb:${join(dir, "store")}`,
      "--cache-dir",
      join(dir, "cache"),
      "--threads",
      "1",
      "--chat-template",
      repositoryFile("test/golden/chat/chatml.jinja"),
      "--structured-cache-bytes",
      "0",
      "--training",
      "on",
    ],
    { PREFIXD_ADMIN_KEY: LOAD_ADMIN_KEY },
  );
  t.teardown(() => server.close());
  const { n_positions } = (await (
    await fetch(`${server.url}/model`, { headers: { authorization: `Bearer ${LOAD_ADMIN_KEY}` } })
  ).json()) as { n_positions: number };
  const loads = routeLoads(n_positions, join(ROOT, "prefixes/intent"));
  const app = await documentationApp();
  t.teardown(() => app.close());
  const { paths } = openapiDocument(app) as { paths: Record<string, Record<string, unknown>> };
  const described = Object.entries(paths).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
  );
  t.same([...new Set(loads.map(({ route }) => route))].sort(), described.sort(), "all of them");
  const worst = new Map<string, number>();
  for (const load of loads) {
    let share = Infinity;
    // Repeat, because the first attempt includes compilation. A request that changes state succeeds only once.
    for (let attempt = 0; attempt < 4 && share > 1; attempt++) {
      await server.longestTurn();
      const status = await send(server.url, load);
      if (status >= 500 || (attempt === 0 && status >= 400 !== (load.refused ?? false)))
        t.fail(`${load.route} ${load.what}: ${status}`);
      share = Math.min(share, await server.longestTurn());
    }
    if (share > 1) t.fail(`${load.route} ${load.what}: the longest turn took ${(50 * share).toFixed(0)} ms of the 50`);
    worst.set(load.route, Math.max(worst.get(load.route) ?? 0, share));
  }
  for (const [route, share] of worst) t.comment(`${route}: ${(50 * share).toFixed(1)} ms`);
});
