/** The parts of training jobs that need no process. */
import t from "tap";
import { checkData } from "../../src/training/jobs/check-data.ts";
import { Pacer } from "../../src/training/jobs/pacer.ts";
import { inTurn } from "../../src/training/jobs/runner.ts";
import { NOW, trainingJob } from "../contract/training-store.ts";

const never = new AbortController().signal;

t.test("while the server generates, an update is its share of the time; else there is no rest", async (t) => {
  let now = 0;
  const pacer = new Pacer(
    0.1,
    () => now,
    async (ms) => void (now += ms),
  );
  await pacer.rest(50, never);
  t.equal(now, 0, "nobody is disturbed");
  pacer.busy = true;
  await pacer.rest(50, never);
  t.equal(now, 450);
  const stopped = new AbortController();
  stopped.abort();
  await pacer.rest(50, stopped.signal);
  t.equal(now, 450, "a stopped job does not wait");
});

t.test("a rest ends when the server is idle", async (t) => {
  let now = 0;
  const pacer = new Pacer(
    0.01,
    () => now,
    async (ms) => {
      now += ms;
      if (now >= 100) pacer.busy = false;
    },
  );
  pacer.busy = true;
  await pacer.rest(1000, never);
  t.equal(now, 100);
});

t.test("the user with the least service is next, then the oldest job", (t) => {
  const [ann, bob, eve] = [trainingJob("ann", NOW), trainingJob("bob", NOW + 1), trainingJob("eve", NOW + 2)];
  const order = (service: Record<string, number>): string[] =>
    inTurn([eve, bob, ann], (user) => service[user] ?? 0).map(({ user }) => user);
  t.same(order({}), ["ann", "bob", "eve"]);
  t.same(order({ ann: 5, bob: 1, eve: 1 }), ["bob", "eve", "ann"]);
  t.end();
});

t.test("a line of any length is read in bounded memory, and others are served meanwhile", async (t) => {
  const chunk = Buffer.alloc(1 << 20, "x");
  const endless = async function* (): AsyncGenerator<Uint8Array> {
    for (let i = 0; i < 1024; i++) yield chunk;
  };
  const before = process.memoryUsage().arrayBuffers;
  let most = 0;
  const watched = async function* (): AsyncGenerator<Uint8Array> {
    for await (const piece of endless()) {
      most = Math.max(most, process.memoryUsage().arrayBuffers - before);
      yield piece;
    }
  };
  await t.rejects(checkData(watched()), {
    code: "training_data_invalid",
    message: /line 1: it is longer than 1048576/,
  });
  t.ok(most < 64 << 20, `${most} bytes`);

  const good = Buffer.from('{"prompt": "a", "completion": "b"}\n'.repeat(3_000));
  let turns = 0;
  const timer = setInterval(() => turns++, 1);
  await checkData(
    (async function* () {
      for (let i = 0; i < 10; i++) yield good;
    })(),
  );
  clearInterval(timer);
  t.ok(turns > 0, `${turns} turns of the event loop within one file`);
});
