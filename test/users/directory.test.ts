import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { PrefixdError } from "../../src/errors.ts";
import { UserDirectory } from "../../src/users/directory.ts";
import { NO_LIMITS, type User } from "../../src/users/types.ts";

const user = (id: string, weight: number): User => ({ id, weight, limits: NO_LIMITS, createdAt: "", updatedAt: "" });

/** A store that counts how often it is asked, and that can go away. */
function fakeStore(): {
  users: Map<string, User>;
  asked: number;
  away: boolean;
  change: (id: string) => void;
  getUser: (id: string) => Promise<User | null>;
  onChange: (listener: (id: string) => void) => () => void;
} {
  let listener: (id: string) => void = () => {};
  const store = {
    users: new Map<string, User>(),
    asked: 0,
    away: false,
    change: (id: string) => listener(id),
    async getUser(id: string) {
      store.asked++;
      if (store.away) throw new PrefixdError("store_unavailable", "away");
      return store.users.get(id) ?? null;
    },
    onChange(heard: (id: string) => void) {
      listener = heard;
      return () => (listener = () => {});
    },
  };
  return store;
}

t.test("answers from memory, and asks anew in the background", async (t) => {
  const store = fakeStore();
  store.users.set("a", user("a", 1));
  const directory = new UserDirectory(store, 30);
  t.teardown(() => directory.close());
  t.equal(directory.find("a"), null, "not loaded yet");
  await Promise.all([directory.load("a"), directory.load("a")]);
  t.equal(store.asked, 1, "once for both");
  t.equal(directory.find("a")?.weight, 1);
  store.users.set("a", user("a", 5));
  await sleep(40);
  directory.find("a");
  await sleep(5);
  t.equal(directory.find("a")?.weight, 5, "a change is seen within the bound");
});

t.test("a change that is heard of is seen at once", async (t) => {
  const store = fakeStore();
  store.users.set("a", user("a", 1));
  const directory = new UserDirectory(store, 60_000);
  t.teardown(() => directory.close());
  await directory.load("a");
  store.users.set("a", user("a", 2));
  store.change("a");
  await sleep(1);
  t.equal(directory.find("a")?.weight, 2);
  directory.forget("a");
  t.equal(directory.find("a"), null);
});

t.test("while the store is away the last known limits hold, and an unknown user is refused", async (t) => {
  const store = fakeStore();
  store.users.set("a", user("a", 1));
  const directory = new UserDirectory(store, 0);
  t.teardown(() => directory.close());
  await directory.load("a");
  store.away = true;
  await directory.load("a");
  t.equal(directory.find("a")?.weight, 1);
  await t.rejects(directory.load("b"), { code: "store_unavailable" });
});

t.test("a read that began before a notice does not come back after it", async (t) => {
  for (const [what, notice] of [
    ["a change", (store) => store.change("a")],
    ["a removal", (_store, directory) => directory.forget("a")],
    ["the loss of the lease", (_store, directory) => directory.forget(null)],
  ] satisfies [string, (store: ReturnType<typeof fakeStore>, directory: UserDirectory) => void][]) {
    await t.test(what, async (t) => {
      const store = fakeStore();
      store.users.set("a", user("a", 1));
      let answer = (): void => {};
      const directory = new UserDirectory(
        {
          onChange: store.onChange,
          getUser: async (id) => {
            const read = await store.getUser(id);
            if (store.asked === 1) await new Promise<void>((resolve) => (answer = resolve));
            return read;
          },
        },
        60_000,
      );
      t.teardown(() => directory.close());
      const loading = directory.load("a");
      await sleep(1);
      store.users.set("a", user("a", 2));
      notice(store, directory);
      answer();
      await loading;
      t.equal(directory.find("a")?.weight, 2);
      t.equal(store.asked, 2);
    });
  }
});
