import t from "tap";
import { TransferGate, type GateLimits } from "../../../src/http/prefixes/transfer-gate.ts";

const LIMITS: GateLimits = {
  running: 3,
  runningOfUser: 2,
  waiting: 6,
  waitingOfUser: 4,
  waitMs: 10_000,
  graceMs: 10_000,
  leastRate: 1024,
};

/** Uploads by name, each of which ends when it is told to; `entered` has them in the order in which they were let in. */
function gate(limits: Partial<GateLimits> = {}) {
  const uploads = new TransferGate({ ...LIMITS, ...limits });
  const entered: string[] = [];
  const ends = new Map<string, () => void>();
  const put = (user: string, name: string, signal = new AbortController().signal): Promise<void> =>
    uploads.run(user, signal, () => {
      entered.push(name);
      return new Promise((resolve) => ends.set(name, resolve));
    });
  const end = async (name: string): Promise<void> => {
    ends.get(name)!();
    await new Promise((resolve) => setImmediate(resolve));
  };
  return { put, end, entered };
}

t.test("one user's uploads leave places for others, who do not wait behind them", async (t) => {
  const { put, end, entered } = gate();
  const all = [put("ann", "ann-1"), put("ann", "ann-2"), put("ann", "ann-3"), put("ann", "ann-4"), put("bob", "bob-1")];
  t.same(entered, ["ann-1", "ann-2", "bob-1"]);
  all.push(put("bob", "bob-2"), put("cyd", "cyd-1"));
  await end("ann-1");
  t.same(entered.slice(3), ["cyd-1"], "who has none comes first, though last");
  await end("cyd-1");
  t.same(entered.slice(4), ["ann-3"], "of equals, who has not been let in for longest");
  await end("ann-2");
  t.same(entered.slice(5), ["bob-2"]);
  await end("bob-1");
  t.same(entered.slice(6), ["ann-4"]);
  for (const name of ["ann-3", "ann-4", "bob-2"]) await end(name);
  await Promise.all(all);
});

t.test("waiting uploads are limited per user and in all", async (t) => {
  const { put, end } = gate({ running: 1, runningOfUser: 1, waiting: 3, waitingOfUser: 2 });
  const all = [put("ann", "1"), put("ann", "2"), put("ann", "3")];
  await t.rejects(put("ann", "4"), { code: "uploads_busy" });
  all.push(put("bob", "5"));
  await t.rejects(put("bob", "6"), { code: "uploads_busy" });
  for (const name of ["1", "5", "2", "3"]) await end(name);
  await Promise.all(all);
});

t.test("an upload that waits too long is refused, one that leaves makes room; neither is carried out", async (t) => {
  const { put, end, entered } = gate({ running: 1, waiting: 1, waitMs: 20 });
  const first = put("ann", "1");
  await t.rejects(put("bob", "2"), { code: "uploads_busy" });
  const leaves = new AbortController();
  const second = put("bob", "3", leaves.signal);
  leaves.abort();
  await t.rejects(second, { code: "invalid_request" });
  const third = put("bob", "4");
  await end("1");
  await end("4");
  await Promise.all([first, third]);
  t.same(entered, ["1", "4"]);
});

t.test("a failed upload passes its place on", async (t) => {
  const uploads = new TransferGate({ ...LIMITS, running: 1, runningOfUser: 1 });
  const { signal } = new AbortController();
  const results = Array.from({ length: 3 }, (_, i) =>
    uploads.run("ann", signal, async () => {
      if (i === 0) throw new Error("injected");
      return i;
    }),
  );
  t.match(await Promise.allSettled(results), [{ status: "rejected" }, { value: 1 }, { value: 2 }]);
});

/** Uploads whose bodies are being read: each has `bytes`, and ends with the error that it gives way with. */
function slow(limits: Partial<GateLimits> = {}) {
  const uploads = new TransferGate({ ...LIMITS, running: 2, runningOfUser: 2, graceMs: 20, ...limits });
  const entered: string[] = [];
  const put = (user: string, name: string, bytes: number): { readonly done: Promise<unknown>; end: () => void } => {
    let end = (): void => {};
    const finished = new Promise<void>((resolve) => (end = resolve));
    const done = uploads.run(user, new AbortController().signal, (place) => {
      entered.push(name);
      return Promise.race([finished, new Promise<never>((_, reject) => place.begin(() => bytes, reject))]);
    });
    return { done: done.catch((error: unknown) => error), end };
  };
  return { put, entered };
}

t.test("a slow upload gives way to another user's; of several, one of the user with most", async (t) => {
  const { put, entered } = slow({ running: 3 });
  const [one, two, other] = [put("ann", "ann-1", 10), put("ann", "ann-2", 0), put("bob", "bob-1", 0)];
  const cyd = put("cyd", "cyd-1", 0);
  t.match(await two.done, {
    code: "upload_stalled",
    status: 408,
    retryAfter: 5,
    message: /slower than 1 KiB\/s while others waited/,
  });
  t.same(entered, ["ann-1", "ann-2", "bob-1", "cyd-1"], "the one that is latest");
  for (const upload of [one, other, cyd]) {
    upload.end();
    t.equal(await upload.done, undefined, "nobody waits for the others' places");
  }
});

t.test("a fast enough upload does not give way, nor any to its own user's", async (t) => {
  const { put, entered } = slow();
  const [quick, own] = [put("ann", "ann-1", 1e9), put("ann", "ann-2", 0)];
  const more = put("ann", "ann-3", 0);
  await new Promise((resolve) => setTimeout(resolve, 100));
  t.same(entered, ["ann-1", "ann-2"], "ann waits for herself");
  const bob = put("bob", "bob-1", 1e9);
  t.match(await own.done, { code: "upload_stalled" });
  t.same(entered, ["ann-1", "ann-2", "bob-1"]);
  const cyd = put("cyd", "cyd-1", 1e9);
  await new Promise((resolve) => setTimeout(resolve, 100));
  t.equal(entered.length, 3, "there is no slow one");
  for (const upload of [quick, bob, cyd, more]) {
    upload.end();
    t.equal(await upload.done, undefined);
  }
});
