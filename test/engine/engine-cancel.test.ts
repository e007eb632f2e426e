import { setImmediate as turn } from "node:timers/promises";
import t, { type Test } from "tap";
import { Engine, type EngineOptions } from "../../src/engine/engine.ts";
import type { EngineRequest } from "../../src/engine/request.ts";
import { FakeRunner, fakePrefix, oracle } from "../support/fake-runner.ts";
import { engineRequest, GREEDY } from "../support/model.ts";
import { CountingObserver, idle, Recording, type Hooks } from "../support/recording.ts";

t.setTimeout(60_000);

interface Rig {
  readonly engine: Engine;
  readonly runner: FakeRunner;
  readonly observer: CountingObserver;
}

function setup(given: Partial<EngineOptions> & { slots?: number } = {}): Rig {
  const runner = new FakeRunner(given.slots ?? 3);
  const observer = new CountingObserver();
  return { engine: new Engine({ runner, maxQueue: 100, prefillChunk: 4, observer, ...given }), runner, observer };
}

const LONG = engineRequest({
  promptIds: Int32Array.from({ length: 23 }, (_, i) => i),
  prefix: fakePrefix(1, 6),
  maxNewTokens: 30,
});
const SHORT = engineRequest({ promptIds: Int32Array.of(4, 5), prefix: fakePrefix(2, 3), maxNewTokens: 20 });

/**
 * Ends a request in some phase while two others run, and checks that they never notice, that the request hears what it should,
 * and that nothing is left.
 */
async function endIn(
  t: Test,
  reason: "cancelled" | "removed",
  request: EngineRequest,
  hooks: Hooks,
  act: (target: Recording, rig: Rig) => Promise<void> | void,
): Promise<Recording> {
  const rig = setup();
  const before = new Recording(rig.engine, SHORT);
  const target = new Recording(rig.engine, request, hooks);
  const after = new Recording(rig.engine, { ...SHORT, prefix: fakePrefix(3, 9) });
  await act(target, rig);
  await Promise.all([before.ended, after.ended]);
  await idle(rig.engine);
  t.same(
    [before.ids, after.ids],
    [[oracle(SHORT, 0)], [oracle({ ...SHORT, prefix: fakePrefix(3, 9) }, 0)]],
    "the others' tokens",
  );
  target.ids.forEach((ids, choice) =>
    t.same(ids, oracle(request, choice).slice(0, ids.length), "its own tokens until then"),
  );
  t.same([target.violations, rig.runner.misuses, target.error], [[], [], null]);
  t.same(rig.observer.outcomes, { length: 2, [reason]: request.n }, "one outcome for every sequence");
  if (reason === "removed")
    t.ok(
      target.reasons.every((one) => one === "removed"),
      "onFinish(removed) for every choice",
    );
  else
    t.ok(
      target.reasons.every((one) => one === null),
      "not a word more",
    );
  return target;
}

const forked = { ...SHORT, n: 3, sampling: { ...GREEDY, doSample: true }, seed: 3 };

for (const reason of ["cancelled", "removed"] as const) {
  t.test(`${reason} in the turn of submit`, async (t) => {
    const target = await endIn(t, reason, SHORT, {}, (target) => target.handle.cancel(reason));
    t.notOk(target.started);
  });

  t.test(`${reason} while it waits`, async (t) => {
    const target = await endIn(t, reason, { ...SHORT, n: 3 }, {}, async (target, { engine }) => {
      while (engine.stats().running < 2) await turn();
      t.equal(engine.stats().queued, 1);
      target.handle.cancel(reason);
      t.equal(engine.stats().queued, 0, "its place in the queue is free at once");
    });
    t.notOk(target.started);
  });

  t.test(`${reason} when half its prompt is fed`, async (t) => {
    const target = await endIn(t, reason, LONG, {}, async (target, { observer }) => {
      while (observer.steps.filter(({ tokens }) => tokens === 4).length < 2) await turn();
      target.handle.cancel(reason);
    });
    t.ok(target.started);
    t.same(target.ids, [[]]);
  });

  t.test(`${reason} during the run of its last chunk`, async (t) => {
    const target = await endIn(t, reason, LONG, {}, (target, { runner }) => {
      runner.during = (method): void => {
        if (method === "prefill last" && target.started) target.handle.cancel(reason);
      };
    });
    t.same(target.ids, [[]]);
  });

  t.test(`${reason} during a decode step, twice`, async (t) => {
    const target = await endIn(t, reason, LONG, {}, (target, { runner }) => {
      runner.during = (method): void => {
        if (method === "decode" && target.tokens.length === 3) {
          target.handle.cancel(reason);
          target.handle.cancel(reason);
        }
      };
    });
    t.equal(target.tokens.length, 3, "the token of the step that ran is not told");
  });

  t.test(`${reason} from onStart`, async (t) => {
    const target = await endIn(t, reason, LONG, { onStart: (handle) => handle.cancel(reason) }, () => undefined);
    t.same(target.ids, [[]]);
  });

  t.test(`${reason} from its first onToken`, async (t) => {
    const onToken: Hooks["onToken"] = (_, handle) => void handle.cancel(reason);
    const target = await endIn(t, reason, forked, { onToken }, () => undefined);
    t.equal(target.tokens.length, 1, "the other choices' first tokens of the same run are not told");
  });

  t.test(`${reason} from an onToken of a decode step`, async (t) => {
    let tokens = 0;
    const onToken: Hooks["onToken"] = (_, handle) => void (++tokens === 8 && handle.cancel(reason));
    const target = await endIn(t, reason, forked, { onToken }, () => undefined);
    t.equal(target.tokens.length, 8);
  });

  t.test(`${reason} by another request's listener, in the middle of a step`, async (t) => {
    for (const later of [false, true]) {
      const { engine, runner } = setup();
      const victims: Recording[] = [];
      const killer = {
        onToken: (): undefined => void (killers[0]!.tokens.length === 3 && victims[0]!.handle.cancel(reason)),
      };
      const killers: Recording[] = [];
      if (later) victims.push(new Recording(engine, SHORT));
      killers.push(new Recording(engine, SHORT, killer));
      if (!later) victims.push(new Recording(engine, SHORT));
      await killers[0]!.ended;
      await idle(engine);
      t.same(killers[0]!.ids, [oracle(SHORT, 0)]);
      t.equal(victims[0]!.tokens.length, later ? 3 : 2);
      t.same([victims[0]!.violations, runner.misuses], [[], []]);
    }
  });
}

t.test("cancelled from onFinish, the other choices end silently", async (t) => {
  const { engine, runner, observer } = setup();
  const seen = [0, 0, 0];
  const recording = new Recording(engine, forked, {
    onToken: ({ choice }) => (++seen[choice]! === 4 && choice === 1 ? "stop" : "continue"),
    onFinish: (_, __, handle) => handle.cancel("cancelled"),
  });
  await idle(engine);
  t.same(recording.reasons, [null, "stop", null]);
  t.same(seen, [4, 4, 3]);
  t.same(observer.outcomes, { stop: 1, cancelled: 2 });
  t.same([recording.violations, runner.misuses], [[], []]);
});

t.test("removed from onFinish, the other choices end as removed", async (t) => {
  const { engine, observer } = setup();
  const recording = new Recording(engine, forked, {
    onToken: ({ choice }) => (choice === 0 ? "stop" : "continue"),
    onFinish: (_, __, handle) => handle.cancel("removed"),
  });
  await recording.ended;
  t.same(recording.reasons, ["stop", "removed", "removed"]);
  t.same(recording.violations, []);
  t.same(observer.outcomes, { stop: 1, removed: 2 });
});

t.test("cancelling after the end changes nothing", async (t) => {
  const { engine, observer } = setup();
  const recording = new Recording(engine, SHORT);
  await recording.ended;
  recording.handle.cancel("removed");
  recording.handle.cancel("cancelled");
  await idle(engine);
  t.same(recording.reasons, ["length"]);
  t.same([recording.violations, observer.outcomes], [[], { length: 1 }]);
});

t.test("a cancelled request's rows are reused in the next step", async (t) => {
  const { engine, runner, observer } = setup({ slots: 2 });
  const holders = [
    new Recording(engine, { ...SHORT, maxNewTokens: 100 }),
    new Recording(engine, { ...SHORT, maxNewTokens: 100 }),
  ];
  const waiting = new Recording(engine, { ...SHORT, prefix: fakePrefix(9, 2) });
  while (holders[1]!.tokens.length < 3) await turn();
  const steps = observer.steps.length;
  holders[0]!.handle.cancel("cancelled");
  await waiting.ended;
  const since = observer.steps.slice(steps);
  const started = since.findIndex(({ phase }) => phase === "prefill");
  t.ok(
    started >= 0 && started <= 1,
    `at most the step that was running came before it: ${JSON.stringify(since.slice(0, 4))}`,
  );
  t.same(waiting.ids, [oracle({ ...SHORT, prefix: fakePrefix(9, 2) }, 0)]);
  holders[1]!.handle.cancel("cancelled");
  t.match(await idle(engine), { queued: 0, running: 0 });
  t.same(runner.misuses, []);
});

t.test("a request may be submitted from any callback of another", async (t) => {
  const { engine, runner } = setup();
  const born: Recording[] = [];
  const spawn = (): void => void born.push(new Recording(engine, SHORT));
  const parent = new Recording(
    engine,
    { ...SHORT, maxNewTokens: 2 },
    { onStart: spawn, onToken: () => void spawn(), onFinish: spawn },
  );
  await parent.ended;
  t.equal(born.length, 4);
  await Promise.all(born.map((recording) => recording.ended));
  for (const recording of born) t.same(recording.ids, [oracle(SHORT, 0)]);
  t.same(runner.misuses, []);
});
