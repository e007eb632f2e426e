/** Constraints that come at once are compiled in turn. */
import t from "tap";
import { CompileTurns } from "../../src/generation/compile-turns.ts";
import { Constraints } from "../../src/generation/constraints.ts";
import type { ConstraintSpec } from "../../src/generation/types.ts";
import { DEFAULT_LIMITS } from "../../src/structured/limits.ts";
import { demoTokenizer } from "../structured/support.ts";

t.test("every step has a turn of the event loop to itself", async (t) => {
  const turns = new CompileTurns();
  let turn = 0;
  let running = true;
  const count = (): void => {
    turn++;
    if (running) setImmediate(count);
  };
  setImmediate(count);
  const taken: number[] = [];
  const step = async (): Promise<void> => {
    for (let i = 0; i < 5; i++) {
      await turns.next();
      taken.push(turn);
    }
  };
  await Promise.all([step(), step(), step()]);
  running = false;
  t.equal(new Set(taken).size, 15, taken.join());
});

t.test("a user's work is done one after another, whatever becomes of it; others' is not kept waiting", async (t) => {
  const turns = new CompileTurns();
  const log: string[] = [];
  const work =
    (name: string, fails = false) =>
    async (): Promise<string> => {
      log.push(`${name} begins`);
      await turns.next();
      log.push(`${name} ends`);
      if (fails) throw new Error(name);
      return name;
    };
  const results = await Promise.allSettled([
    turns.inOrder("ann", work("a1", true)),
    turns.inOrder("ann", work("a2")),
    turns.inOrder("ben", work("b1")),
  ]);
  t.match(results, [{ reason: { message: "a1" } }, { value: "a2" }, { value: "b1" }]);
  t.same(log, ["a1 begins", "b1 begins", "a1 ends", "a2 begins", "b1 ends", "a2 ends"]);
});

const tokenizer = await demoTokenizer();
const newConstraints = (): Constraints =>
  new Constraints({
    tokenizer,
    eosIds: [tokenizer.eosId!],
    positions: 512,
    limits: DEFAULT_LIMITS,
    cacheBytes: 1 << 24,
  });

t.test("small steps share a turn", async (t) => {
  let turns = 0;
  let running = true;
  const count = (): void => {
    turns++;
    if (running) setImmediate(count);
  };
  setImmediate(count);
  // Its shortest text has thousands of tokens.
  await newConstraints().prepare("ann", { form: { kind: "regex", source: "[éèß]{2000}" }, leadingSpace: true });
  running = false;
  t.ok(turns > 3 && turns < 200, `${turns} turns`);
});

t.test("the same constraint in many requests at once is compiled once for each user", async (t) => {
  const constraints = newConstraints();
  const spec: ConstraintSpec = { form: { kind: "choice", texts: ["yes", "no"] }, leadingSpace: true };
  const prepared = await Promise.all(["ann", "ann", "ben", "ann"].map((user) => constraints.prepare(user, spec)));
  t.same(
    prepared.map(({ preparation }) => preparation > 0),
    [true, false, true, false],
  );
  t.match(constraints.stats(), { hits: 2, misses: 2, entries: 2 });
});

t.test("what nobody waits for any more is not compiled", async (t) => {
  const constraints = newConstraints();
  let gone = false;
  let steps = 0;
  const goOn = (): void => {
    steps++;
    if (gone) throw new Error("gone");
  };
  const long = { form: { kind: "regex", source: "[éèß]{1000}" }, leadingSpace: true } as const;
  const first = constraints.prepare("ann", long, goOn);
  const second = constraints.prepare("ann", { ...long, leadingSpace: false }, goOn);
  setImmediate(() => (gone = true));
  await t.rejects(first, { message: "gone" });
  await t.rejects(second, { message: "gone" });
  t.ok(steps < 8, `${steps} steps`);
  t.equal(constraints.stats().entries, 0);
});
