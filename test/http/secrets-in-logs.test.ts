import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { InjectOptions } from "fastify";
import t from "tap";
import { createAuditLog } from "../../src/observability/audit.ts";
import { createLogger } from "../../src/observability/logging.ts";
import { SecretFilter } from "../../src/observability/secrets.ts";
import { createApiKey } from "../../src/users/api-key.ts";
import { ADMIN_KEY, buildTestApp, until } from "../support/app.ts";

/** Where a client could put a key by mistake. */
const PLACES: ((put: string) => Pick<InjectOptions, "method" | "url" | "payload" | "headers">)[] = [
  (put) => ({ method: "GET", url: `/${put}` }),
  (put) => ({ method: "GET", url: `/prefixes?after=${put}` }),
  (put) => ({ method: "PUT", url: `/prefixes/${put}`, payload: { text: "aa" } }),
  (put) => ({ method: "GET", url: `/prefixes/${put}` }),
  (put) => ({ method: "GET", url: `/prefixes/a%2F${put}` }),
  (put) => ({ method: "DELETE", url: `/prefixes/${put}%2Fa` }),
  (put) => ({ method: "GET", url: `/prefixes/a/adapter/${put}` }),
  (put) => ({ method: "PATCH", url: "/prefixes/a", payload: { shared_with: [put] } }),
  (put) => ({ method: "POST", url: `/prefixes/${put}/generate`, payload: { prompt: "a", max_new_tokens: 1 } }),
  (put) => ({ method: "POST", url: "/generate", payload: { prompt: put, stop: [put], max_new_tokens: 1 } }),
  (put) => ({ method: "POST", url: "/generate", payload: { prompt: "a", [put]: 1 } }),
  (put) => ({ method: "POST", url: "/admin/users", payload: { id: put } }),
  (put) => ({ method: "GET", url: `/admin/users/${put}` }),
  (put) => ({ method: "DELETE", url: `/admin/users/${put}` }),
  (put) => ({ method: "DELETE", url: `/admin/users/ann/keys/${put}` }),
  (put) => ({ method: "GET", url: `/usage?from=${put}` }),
  (put) => ({ method: "GET", url: "/model", headers: { "x-request-id": put } }),
  (put) => ({ method: "GET", url: "/model", headers: { authorization: `Bearer ${put}` } }),
];

t.test("no line of either log has a key, a near key or a bare secret, wherever a client puts it", async (t) => {
  const file = join(t.testdir({}), "audit.jsonl");
  const lines: string[] = [];
  const secrets = new SecretFilter([ADMIN_KEY]);
  const logger = createLogger("debug", { write: (line: string) => void lines.push(line) }, secrets);
  const app = await buildTestApp(t, { keyed: true, logger, secrets, audit: createAuditLog(file, logger, secrets) });
  const { key } = createApiKey();
  const secret = "w3Xk9_QzR7tLm2-VbN8yHc5JfD1sGpA6eUoTiKqWxZ4";
  const puts = [
    ADMIN_KEY,
    `${ADMIN_KEY}x`,
    ADMIN_KEY.slice(0, -1),
    ADMIN_KEY.slice(1),
    ADMIN_KEY.toUpperCase(),
    `x${ADMIN_KEY}`,
    key,
    `${key}x`,
    key.slice(0, -1),
    key.toUpperCase(),
    secret,
  ];
  let requests = 0;
  for (const place of PLACES) {
    for (const put of puts) {
      const { headers = {}, ...request } = place(put);
      await app.fastify.inject({
        headers: { authorization: `Bearer ${ADMIN_KEY}`, ...headers },
        ...request,
      } as InjectOptions);
      requests++;
    }
  }
  await until(() => lines.filter((line) => line.includes('"msg":"request"')).length >= requests);
  const all = (lines.join("") + readFileSync(file, "utf8")).toLowerCase();
  for (const put of [ADMIN_KEY, key.slice(4), key.slice(-43), secret]) {
    // Halves: a line must not show the better part of one either.
    for (const part of [put.slice(0, put.length / 2), put.slice(put.length / 2)])
      t.notOk(all.includes(part.toLowerCase()), part);
  }
  t.match(all, /"prefix_id":"\[redacted\]"/, "there are such lines");
  t.match(readFileSync(file, "utf8"), /"target":"admin\/\[redacted\]"/);
  for (const line of lines)
    t.doesNotThrow(() => JSON.parse(line) as unknown, "a line with something taken out is still JSON");
});
