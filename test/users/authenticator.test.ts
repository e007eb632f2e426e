import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { PrefixdError } from "../../src/errors.ts";
import { AdminKeys } from "../../src/users/admin-keys.ts";
import { createApiKey, keyLabel } from "../../src/users/api-key.ts";
import { createAuthenticator } from "../../src/users/authenticator.ts";
import { openRedisUserStore } from "../../src/redis/user-store.ts";
import type { ApiKeyRecord } from "../../src/users/types.ts";
import { user } from "../contract/user-store.ts";
import { startRedis } from "../support/redis.ts";
import { lacking } from "../support/requirements.ts";

const ADMIN = "an-admin-key-of-more-than-32-characters";

/** Keys in a Map, with a clock and a switch. */
function setup() {
  const records = new Map<string, ApiKeyRecord>();
  const listeners = new Set<(user: string) => void>();
  const state = { now: 0, date: Date.parse("2026-01-01T00:00:00Z"), away: false, asked: 0 };
  const store = {
    async findKey(id: string): Promise<ApiKeyRecord | null> {
      state.asked++;
      if (state.away) throw new PrefixdError("store_unavailable", "away", { retryAfter: 2 });
      return records.get(id) ?? null;
    },
    onChange(listener: (user: string) => void): () => void {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
  };
  const authenticator = createAuthenticator({
    store,
    adminKeys: new AdminKeys([ADMIN]),
    now: () => state.now,
    clock: () => new Date(state.date),
  });
  const add = (owner: string, expiresAt: string | null = null): { id: string; key: string } => {
    const { id, key, hash } = createApiKey();
    records.set(id, { id, user: owner, hash, createdAt: "", expiresAt });
    return { id, key };
  };
  const ask = (key: string) => authenticator.authenticate(`Bearer ${key}`);
  return { records, listeners, state, authenticator, add, ask };
}

t.test("which user a key stands for", async (t) => {
  const { authenticator, add, ask, listeners } = setup();
  const { id, key } = add("ann");
  t.same(await ask(key), { role: "user", user: "ann", keyId: id });
  t.same(await authenticator.authenticate(`bearer   ${key} `), { role: "user", user: "ann", keyId: id });
  t.same(await ask(ADMIN), { role: "admin", user: "admin", keyId: keyLabel(ADMIN) });
  authenticator.close();
  t.equal(listeners.size, 0);
});

t.test("everything else is the same 401", async (t) => {
  const { authenticator, add, state } = setup();
  const { id, key } = add("ann");
  const expired = add("ann", "2026-01-01T00:00:00.000Z").key;
  const other = createApiKey().key;
  const headers = [
    undefined,
    "",
    "Bearer",
    "Bearer ",
    key,
    `Basic ${key}`,
    `Bearer ${key} x`,
    `Bearer ${key}x`,
    `Bearer ${other}`,
    `Bearer ${expired}`,
    `Bearer pfx_${id}_${other.slice(21)}`,
    `Bearer ${ADMIN}x`,
    `Bearer ${ADMIN.slice(1)}`,
    "Bearer " + "x".repeat(10_000),
    "Bearer é",
  ];
  const answers = new Set<string>();
  for (const header of headers) {
    const error = await authenticator.authenticate(header).catch((error: unknown) => error);
    t.match(error, { code: "unauthorized", status: 401 }, String(header).slice(0, 40));
    answers.add((error as Error).message);
  }
  t.equal(answers.size, 1);
  const asked = state.asked;
  for (const header of headers.slice(0, 8)) await t.rejects(authenticator.authenticate(header));
  t.equal(state.asked, asked, "what has not the shape of a key asks nobody");
});

t.test("a key expires while it is known", async (t) => {
  const { add, ask, state } = setup();
  const { key } = add("ann", "2026-01-01T00:00:10.000Z");
  await ask(key);
  state.date += 9_999;
  await ask(key);
  state.date += 1;
  await t.rejects(ask(key), { code: "unauthorized" });
});

t.test("a revoked key works for the stated bound at most, and not at all once the change is heard", async (t) => {
  const { add, ask, state, records, listeners } = setup();
  const { id, key } = add("ann");
  await ask(key);
  records.delete(id);
  state.now = 999;
  await ask(key);
  t.equal(state.asked, 1);
  state.now = 1000;
  await t.rejects(ask(key), { code: "unauthorized" });
  const again = add("ann");
  await ask(again.key);
  records.delete(again.id);
  for (const listener of listeners) listener("bob");
  await ask(again.key);
  for (const listener of listeners) listener("ann");
  await t.rejects(ask(again.key), { code: "unauthorized" });
});

t.test("a store that is away: known keys for 10 s, then 503; unknown ones 503 at once", async (t) => {
  const { add, ask, state } = setup();
  const [known, never] = [add("ann").key, add("ann").key];
  await ask(known);
  state.away = true;
  await t.rejects(ask(never), { code: "store_unavailable", status: 503 });
  state.now = 9_999;
  await ask(known);
  state.now = 10_000;
  await t.rejects(ask(known), { code: "store_unavailable" });
  await ask(ADMIN);
  state.away = false;
  await ask(known);
});

t.test("made-up keys cost one question a second each, and no memory without bound", async (t) => {
  const { ask, state, add } = setup();
  const real = add("ann").key;
  await ask(real);
  const fake = createApiKey().key;
  for (let i = 0; i < 5; i++) await t.rejects(ask(fake));
  t.equal(state.asked, 2);
  for (let i = 0; i < 3_000; i++) await ask(createApiKey().key).catch(() => {});
  await ask(real);
  t.equal(state.asked, 3_002, "the real one was not pushed out");
  state.now = 1_000;
  await t.rejects(ask(fake));
  t.equal(state.asked, 3_003);
});

t.test("concurrent requests with one key ask the store once", async (t) => {
  const { add, ask, state } = setup();
  const { key } = add("ann");
  await Promise.all(Array.from({ length: 50 }, () => ask(key)));
  t.equal(state.asked, 1);
});

t.test(
  "revocation reaches another replica over Redis, also when the message is lost",
  { skip: lacking("redis-server") },
  async (t) => {
    const redis = await startRedis();
    t.teardown(() => redis.stop());
    const [one, two] = [await openRedisUserStore({ url: redis.url }), await openRedisUserStore({ url: redis.url })];
    // Hears of nothing.
    const deaf = { findKey: (id: string) => two.findKey(id), onChange: () => () => {} };
    const replicas = [two, deaf].map((store) => createAuthenticator({ store, adminKeys: new AdminKeys([ADMIN]) }));
    t.teardown(async () => {
      for (const replica of replicas) replica.close();
      await Promise.all([one.close(), two.close()]);
    });
    await one.createUser(user("ann"));
    for (const [i, replica] of replicas.entries()) {
      const { id, key, hash } = createApiKey();
      await one.putKey({ id, user: "ann", hash, createdAt: "", expiresAt: null });
      await replica.authenticate(`Bearer ${key}`);
      const revokedAt = performance.now();
      await one.deleteKey("ann", id);
      while (
        await replica.authenticate(`Bearer ${key}`).then(
          () => true,
          () => false,
        )
      )
        await sleep(5);
      const ms = performance.now() - revokedAt;
      t.ok(ms < (i === 0 ? 500 : 1_500), `${Math.round(ms)} ms`);
    }
  },
);
