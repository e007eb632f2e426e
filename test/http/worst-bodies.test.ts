/** No body, however it is made, may take longer to read than its size explains: whatever its route's schema says, and however wrong it is. */
import { createHash } from "node:crypto";
import t from "tap";
import { CLIENT_DEFAULTS } from "../../src/http/app-parts.ts";
import { loadTokenizer } from "../../src/text/tokenizer.ts";
import { ADMIN_KEY, buildTestApp, TEST_SHAPE } from "../support/app.ts";
import { effort } from "../support/effort.ts";
import { longestTurn, turnBudget } from "../support/event-loop.ts";
import { skipFileWithout } from "../support/requirements.ts";
import { trainingService } from "../support/training-store.ts";
import { ROUTES_WITH_BODY, worstBodies } from "../support/worst-bodies.ts";

skipFileWithout(t, "thread-time");

const MIB = 1024 ** 2;
/** One in so many bodies: over all fields each kind comes. */
const STRIDE = effort({ short: 19, long: 2 });
const tokenizer = await loadTokenizer(new URL("../../models/demo", import.meta.url).pathname, 4096);

t.test("a body of 1 MiB blocks the event loop for less than 50 ms at a time, on every route", async (t) => {
  // Injected requests have no connection that could be given up.
  const clients = { ...CLIENT_DEFAULTS, receiveMs: 3_600_000 };
  const { fastify, engine } = await buildTestApp(t, {
    keyed: true,
    training: trainingService(t).training,
    tokenizer,
    clients,
    shape: { ...TEST_SHAPE, vocabSize: 4096, positions: 1024 },
    limits: { requestBody: MIB, answer: MIB, maxN: 8, slots: 8, queue: 256 },
  });
  const headers = { authorization: `Bearer ${ADMIN_KEY}`, "content-type": "application/json" };
  await fastify.inject({ method: "POST", url: "/admin/users", payload: '{"id":"ann"}', headers });
  await fastify.inject({ method: "PUT", url: "/prefixes/p", payload: '{"text":"a"}', headers });
  const budget = turnBudget();
  const seen = new Set<string>();
  let tried = 0;
  let worst = { share: 0, what: "" };
  for (const route of ROUTES_WITH_BODY) {
    const body = createHash("sha256").update(JSON.stringify(route.body)).digest("hex");
    const url = route.path.replace("{id}", "p").replace("{user}", "ann").replace("{job}", "x");
    for (const [name, json] of worstBodies(route, MIB)) {
      // The same schema on another path.
      if (seen.has(`${body} ${name}`)) continue;
      seen.add(`${body} ${name}`);
      if (seen.size % STRIDE !== 0) continue;
      tried++;
      const payload = json();
      const send = async (): Promise<void> => {
        const { statusCode, raw } = await fastify.inject({ method: route.method as "POST", url, payload, headers });
        // Both would keep what was sent: the watch of a body until the connection ends, which there is none of here.
        raw.req.emit("close");
        engine.submitted.length = 0;
        if (statusCode >= 500) t.fail(`${url}: ${name}: ${statusCode}`);
      };
      let share = (await longestTurn(send)) / budget;
      // The first time compiles what the others run, and the machine may not be as it was.
      for (let attempt = 0; attempt < 3 && share > 1; attempt++)
        share = Math.min(share, (await longestTurn(send)) / turnBudget());
      if (share > 1) t.fail(`${route.method} ${url}: ${name}: ${(100 * share).toFixed(0)} % of the budget`);
      if (share > worst.share) worst = { share, what: `${route.method} ${url}: ${name}` };
    }
  }
  t.ok(tried > 1000 / STRIDE);
  t.comment(`${tried} bodies; the worst took ${(100 * worst.share).toFixed(0)} % of the budget: ${worst.what}`);
});
