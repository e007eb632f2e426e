/** What prefixes, keys and users rely on: ask, share what is being asked, believe for a time, forget on notice. */
import t from "tap";
import { PrefixdError } from "../../src/errors.ts";
import { VerifiedCache, type VerifiedCacheOptions } from "../../src/replicas/verified-cache.ts";

interface Thing {
  readonly owner: string;
  readonly version: number;
}

/** A source whose answers a test may hold back: each says what was true when it was asked. */
class Source {
  readonly things = new Map<string, Thing>();
  readonly asked: string[] = [];
  /** Every question fails with it. */
  error: Error | null = null;
  #held: Promise<void> | null = null;

  readonly ask = async (key: string): Promise<Thing | null> => {
    this.asked.push(key);
    const [thing, error] = [this.things.get(key) ?? null, this.error];
    await this.#held;
    if (error !== null) throw error;
    return thing;
  };

  /** From now on questions are not answered, until the function is called that it returns. */
  hold(): () => void {
    let answer = (): void => {};
    this.#held = new Promise((resolve) => (answer = resolve));
    return answer;
  }

  /** What comes from now on is answered at once. */
  release(): void {
    this.#held = null;
  }
}

function setUp(options: Partial<VerifiedCacheOptions<string, Thing>> = {}) {
  const source = new Source();
  const clock = { ms: 0 };
  const cache = new VerifiedCache<string, Thing>({
    ask: source.ask,
    textOf: (key) => key,
    ownerOf: (_key, thing) => thing?.owner,
    max: 100,
    maxAbsent: 10,
    verifyMs: 1000,
    staleMs: 10_000,
    now: () => clock.ms,
    ...options,
  });
  const set = (key: string, version: number, owner = "ann"): void => void source.things.set(key, { owner, version });
  const version = async (key: string): Promise<number | null> => (await cache.get(key)).value?.version ?? null;
  return { source, clock, cache, set, version };
}

const away = (): PrefixdError => new PrefixdError("store_unavailable", "away", { retryAfter: 2 });

t.test("concurrent gets ask the source once; the answer is trusted for verifyMs from the question on", async (t) => {
  const { source, clock, set, version } = setUp();
  set("a", 1);
  const answer = source.hold();
  const all = Promise.all(Array.from({ length: 50 }, () => version("a")));
  clock.ms = 400;
  answer();
  t.ok((await all).every((each) => each === 1));
  set("a", 2);
  clock.ms = 999;
  t.equal(await version("a"), 1);
  t.equal(source.asked.length, 1);
  clock.ms = 1000;
  t.equal(await version("a"), 2, "not from the answer on");
  t.equal(source.asked.length, 2);
});

t.test("with verifyMs 0 every get asks, and concurrent ones still share", async (t) => {
  const { source, set, version } = setUp({ verifyMs: 0 });
  set("a", 1);
  await Promise.all([version("a"), version("a")]);
  t.equal(source.asked.length, 1);
  await version("a");
  t.equal(source.asked.length, 2);
});

t.test("a notice during a read: nobody trusts what was read before it", async (t) => {
  for (const [what, notice] of [
    ["of the key", ({ cache }) => cache.forget("a")],
    ["of its owner, whom only the answer names", ({ cache }) => cache.forgetOwner("ann")],
    ["of the key, with the old value left to peek", ({ cache }) => cache.refresh("a")],
    ["of everything", ({ cache }) => cache.clear()],
  ] satisfies [string, (rig: ReturnType<typeof setUp>) => void][]) {
    await t.test(what, async (t) => {
      const rig = setUp();
      const { source, set, version, cache } = rig;
      set("a", 1);
      const answer = source.hold();
      const waiting = [version("a"), version("a")];
      set("a", 2);
      notice(rig);
      waiting.push(version("a"));
      answer();
      t.same(await Promise.all(waiting), [2, 2, 2], "who waited, and who asked after it");
      t.equal(source.asked.length, 2);
      t.match(cache.peek("a"), { version: 2 });
    });
  }
});

t.test("a get after a notice of its key does not wait for the earlier read", async (t) => {
  const { source, set, version, cache } = setUp();
  set("a", 1);
  const answerOld = source.hold();
  const before = version("a");
  set("a", 2);
  cache.forget("a");
  source.release();
  t.equal(await version("a"), 2, "answered while the old one is not");
  answerOld();
  t.equal(await before, 2);
  t.equal(source.asked.length, 2, "who waited takes the newer answer");
});

t.test("a notice of another owner costs no read; one that names no key does", async (t) => {
  const { source, set, version, cache } = setUp();
  set("a", 1);
  const answer = source.hold();
  const [mine, absent] = [version("a"), version("none")];
  set("none", 7, "bob");
  cache.forgetOwner("bob");
  answer();
  t.same([await mine, await absent], [1, 7]);
  t.same(source.asked, ["a", "none", "none"]);
});

t.test("a key that changes all the time is an error, not an old value", async (t) => {
  const cache: VerifiedCache<string, Thing> = new VerifiedCache({
    ask: async () => {
      await Promise.resolve();
      cache.forget("a");
      return { owner: "ann", version: 1 };
    },
    textOf: (key) => key,
    ownerOf: () => "ann",
    max: 1,
  });
  await t.rejects(cache.get("a"), { code: "store_unavailable", retryAfter: 1 });
});

t.test("a failed read rejects all who wait, and the next get asks again", async (t) => {
  const { source, set, version, cache } = setUp();
  set("a", 1);
  source.error = new Error("torn");
  const all = await Promise.allSettled([version("a"), version("a")]);
  t.ok(all.every((each) => each.status === "rejected" && (each.reason as Error).message === "torn"));
  t.equal(source.asked.length, 1);
  t.equal(cache.peek("a"), undefined);
  source.error = null;
  t.equal(await version("a"), 1);
});

t.test("a source that is away: values for staleMs, asked once in verifyMs, then the error", async (t) => {
  const { source, clock, set, cache, version } = setUp();
  set("a", 1);
  await version("a");
  await version("none");
  source.error = away();
  for (clock.ms = 1000; clock.ms < 10_000; clock.ms += 250) {
    const { value, away } = await cache.get("a");
    t.match([value, away], [{ version: 1 }, { code: "store_unavailable" }]);
  }
  t.equal(source.asked.length, 2 + 9);
  await t.rejects(cache.get("a"), { code: "store_unavailable" });
  await t.rejects(cache.get("none"), { code: "store_unavailable" }, "nothing is not believed for longer");
  source.error = null;
  t.equal(await version("a"), 1);
});

t.test("what was forgotten just before the source went away stays so", async (t) => {
  const { source, set, cache, version } = setUp();
  set("a", 1);
  await version("a");
  cache.forget("a");
  source.error = away();
  await t.rejects(cache.get("a"), { code: "store_unavailable" });
});

t.test("peek: from memory, and asked anew in the background", async (t) => {
  const { source, clock, set, cache, version } = setUp();
  t.equal(cache.peek("a"), undefined);
  t.equal(source.asked.length, 0, "what nobody has asked for is not asked for");
  set("a", 1);
  await version("a");
  set("a", 2);
  clock.ms = 1000;
  t.match([cache.peek("a"), cache.peek("a")], [{ version: 1 }, { version: 1 }]);
  t.equal(source.asked.length, 2);
  t.equal(await version("a"), 2);
  t.match(cache.peek("a"), { version: 2 });
});

t.test("refresh: peek keeps the old value until the new one is there, get waits for it", async (t) => {
  const { source, set, cache, version } = setUp();
  cache.refresh("unknown");
  t.equal(source.asked.length, 0);
  set("a", 1);
  await version("a");
  set("a", 2);
  const answer = source.hold();
  cache.refresh("a");
  const waiting = version("a");
  t.match(cache.peek("a"), { version: 1 });
  answer();
  t.equal(await waiting, 2);
  t.match(cache.peek("a"), { version: 2 });
  t.equal(source.asked.length, 2);
});

t.test("bounds: the least used value goes, and keys of nothing push out none", async (t) => {
  const { source, set, version } = setUp({ max: 2, maxAbsent: 3 });
  for (const key of ["a", "b", "c"]) set(key, 1);
  for (const key of ["a", "b", "a", "c", "a"]) await version(key);
  t.same(source.asked, ["a", "b", "c"]);
  await version("b");
  t.equal(source.asked.length, 4, "b made room");
  for (let i = 0; i < 50; i++) await version(`none-${i}`);
  source.asked.length = 0;
  await version("b");
  await version("none-49");
  t.same(source.asked, [], "kept");
  await version("none-0");
  t.same(source.asked, ["none-0"]);
});

t.test("without room for missing keys, each of their gets asks", async (t) => {
  const { source, version } = setUp({ maxAbsent: 0 });
  await version("none");
  await version("none");
  t.equal(source.asked.length, 2);
});

t.test("an owner's keys, and those that may be the owner's, are forgotten; texts are only compared", async (t) => {
  interface Key {
    readonly user: string;
    readonly name: string;
  }
  const asked: Key[] = [];
  let hold: Promise<void> = Promise.resolve();
  const cache = new VerifiedCache<Key, Thing>({
    ask: async (key) => {
      asked.push(key);
      await hold;
      return { owner: key.user, version: 1 };
    },
    // No part of a key can be found in it.
    textOf: ({ user, name }) => Buffer.from(JSON.stringify([name, user])).toString("base64"),
    ownerOf: ({ user }) => user,
    max: 100,
    now: () => 0,
  });
  const keys = ["ann", "an", "ann/x"].flatMap((user) => ["p", "q"].map((name) => ({ user, name })));
  for (const key of keys) await cache.get(key);
  t.ok(cache.knowsOf("an"));
  cache.forgetOwner("an");
  t.notOk(cache.knowsOf("an"));
  asked.length = 0;
  for (const key of keys) await cache.get(key);
  t.same(
    asked.map(({ user }) => user),
    ["an", "an"],
  );
  let release = (): void => {};
  hold = new Promise((resolve) => (release = resolve));
  const waiting = cache.get({ user: "bob", name: "p" });
  t.ok(cache.knowsOf("bob"), "also what is being asked for");
  cache.forgetOwner("bob");
  t.notOk(cache.knowsOf("bob"));
  hold = Promise.resolve();
  release();
  await waiting;
  t.same(asked.slice(2).length, 2, "asked again");
});
