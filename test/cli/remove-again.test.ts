/** `prefixd remove-again`: a store restored from an older copy, and the audit log that tells of what was removed since. */
import { cpSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { removeAgain } from "../../src/cli/remove-again.ts";
import { createAuditLog } from "../../src/observability/audit.ts";
import { createLogger } from "../../src/observability/logging.ts";
import { fill, openAt } from "../archive/stores.ts";
import { user } from "../contract/user-store.ts";
import { record } from "../prefixes/records.ts";
import { startRedis } from "../support/redis.ts";
import { has, reasonFor } from "../support/requirements.ts";

for (const name of Object.keys(process.env)) if (name.startsWith("PREFIXD_")) delete process.env[name];
const dir = t.testdir();
const at = (name: string): string => join(dir, name);
let out: string[] = [];
console.log = (text: string) => void out.push(text);

/** An audit log with these actions, as the server writes it. */
function auditLog(name: string, ...actions: (readonly [action: string, target: string, outcome?: string])[]): string {
  const log = createAuditLog(at(name), createLogger("silent"));
  for (const [action, target, outcome = "ok"] of actions)
    log.record({ action, outcome, user: "admin", key_id: null, address: null, target, request_id: "r" });
  return at(name);
}

t.test("users and keys that were removed are removed again, later users of an id are not", async (t) => {
  out = [];
  const before = await openAt(`lmdb:${at("copy")}`);
  await fill(before);
  const [key] = await before.users.listKeys("ann");
  await before.users.createUser(user("eve"));
  await before.prefixes.put(await record({ user: "eve", name: "p" }, 1));
  await before.close();
  const log = auditLog(
    "audit",
    ["user.remove", "bob"],
    ["key.delete", `ann/${key!.id}`],
    ["user.remove", "ann", "store_unavailable"],
    ["user.remove", "nobody"],
    ["prefix.remove", "ann/p"],
    ["user.remove", "../x"],
  );
  writeFileSync(at("cut"), '{"action":"user.remove","outcome":"ok","tar\nnot JSON\n[]\n');
  cpSync(at("copy"), at("restored"), { recursive: true });
  await removeAgain(["--store", `lmdb:${at("restored")}`, "--audit-log", at("cut"), "--audit-log", log]);
  t.same(out, [
    "removed again: bob",
    `removed again: ann/${key!.id}`,
    "3 removals in the audit log; removed again: 1 user, 1 key",
  ]);
  const after = await openAt(`lmdb:${at("restored")}`);
  t.same(
    (await after.users.listUsers({ limit: 9 })).map(({ id }) => id),
    ["ann", "eve"],
  );
  t.equal(await after.prefixes.head({ user: "bob", name: "p" }), null);
  t.same((await after.prefixes.head({ user: "ann", name: "p" }))?.readable_by, []);
  t.equal(await after.users.findKey(key!.id), null);
  await after.users.createUser({ ...user("bob"), createdAt: "2100-01-01T00:00:00.000Z" });
  await after.close();
  out = [];
  await removeAgain(["--store", `lmdb:${at("restored")}`, "--audit-log", log]);
  t.same(out, ["3 removals in the audit log; removed again: 0 users, 0 keys"]);
});

t.test("with Redis", { skip: has("redis-server") ? false : reasonFor("redis-server") }, async (t) => {
  out = [];
  const redis = await startRedis();
  t.teardown(() => redis.stop());
  const stores = await openAt(redis.url);
  await fill(stores);
  await removeAgain(["--store", redis.url, "--audit-log", auditLog("redis-audit", ["user.remove", "bob"])]);
  t.equal(await stores.users.getUser("bob"), null);
  t.same(await redis.command("KEYS", "*{bob}*"), ["prefixd:{bob}:removed"]);
  await stores.close();
});

t.test("bad usage", async (t) => {
  await t.rejects(removeAgain(["--store", `lmdb:${at("copy")}`]), { name: "ConfigError" });
  await t.rejects(removeAgain(["--audit-log", at("audit")]), { name: "ConfigError" });
  await t.rejects(removeAgain(["--store", `lmdb:${at("copy")}`, "--audit-log", at("none")]), {
    name: "ConfigError",
    message: `--audit-log ${at("none")}: there is no such file or folder`,
  });
});
