/** What a registration that folds costs its user. */
import t from "tap";
import { Engine } from "../../src/engine/engine.ts";
import { FoldingService } from "../../src/generation/folding.ts";
import type { FoldInput } from "../../src/kv.ts";
import { MemoryTokenBuckets, UserTokenRate } from "../../src/users/token-rate.ts";
import type { RequestUsage } from "../../src/users/usage.ts";
import { FakeRunner, foldOf } from "../support/fake-runner.ts";
import { CountingObserver } from "../support/recording.ts";

t.setTimeout(30_000);

function setup(limit: number | null): { folding: FoldingService; runner: FakeRunner; usage: RequestUsage[] } {
  const runner = new FakeRunner(1);
  const engine = new Engine({ runner, maxQueue: 10, prefillChunk: 16, observer: new CountingObserver() });
  const usage: RequestUsage[] = [];
  // A bucket that does not drain.
  const tokenRate = new UserTokenRate(new MemoryTokenBuckets(() => 0), () => limit);
  return {
    folding: new FoldingService({ engine, tokenRate, usage: { record: (used) => void usage.push(used) } }),
    runner,
    usage,
  };
}

const key = { user: "ann", name: "poem" };
const hard = (length: number): FoldInput => ({ kind: "tokens", ids: Int32Array.from({ length }, (_, at) => at % 90) });
const soft: FoldInput = { kind: "embeddings", length: 3, data: new Float32Array(12) };

t.test("it is billed as a prompt of the prefix, and is no request", async (t) => {
  const { folding, usage } = setup(null);
  t.same(await folding.fold(hard(40), key), foldOf(hard(40)));
  t.same(await folding.fold(soft, key), foldOf(soft));
  t.match(
    usage,
    [40, 3].map((promptTokens) => ({
      user: "ann",
      prefix: "poem",
      requests: 0,
      prefixTokens: 0,
      promptTokens,
      completionTokens: 0,
    })),
  );
});

t.test("tokens per minute hold for it, all that is sent at once together", async (t) => {
  const { folding, runner, usage } = setup(100);
  const outcomes = await Promise.allSettled(Array.from({ length: 8 }, () => folding.fold(hard(60), key)));
  t.equal(outcomes.filter(({ status }) => status === "fulfilled").length, 2, "the second one overfills the bucket");
  t.match(outcomes.at(-1), {
    status: "rejected",
    reason: { code: "token_rate_exceeded", status: 429, limit: { name: "tokens", quota: 100 } },
  });
  t.equal(runner.calls.fold, 8, "chunks of two");
  t.equal(usage.length, 2);
});

t.test("what never began costs nothing; what began and was given up costs all of it", async (t) => {
  const { folding, runner, usage } = setup(100);
  const client = new AbortController();
  const [begun, waiting] = [folding.fold(hard(40), key, client.signal), folding.fold(hard(50), key, client.signal)];
  runner.during = () => client.abort();
  for (const fold of [begun, waiting]) await t.rejects(fold, { code: "invalid_request" });
  t.same(
    usage.map(({ promptTokens }) => promptTokens),
    [40, 0],
  );
  runner.during = null;
  await folding.fold(hard(59), key);
  await folding.fold(hard(1), key);
  await t.rejects(folding.fold(hard(1), key), { code: "token_rate_exceeded" }, "40 and 60 of 100");
});

t.test("a removed user's stop and do not begin, until the id is given anew; nobody else's do", async (t) => {
  const { folding, runner, usage } = setup(1000);
  const outcomes = Promise.allSettled([
    folding.fold(hard(100), key),
    folding.fold(hard(20), key),
    folding.fold(hard(20), { ...key, user: "bob" }),
  ]);
  runner.during = () => {
    folding.endOfUser("ann");
    runner.during = null;
  };
  t.match(await outcomes, [
    { reason: { code: "removed", status: 410 } },
    { reason: { code: "removed" } },
    { status: "fulfilled" },
  ]);
  await t.rejects(folding.fold(hard(20), key), { code: "removed" });
  t.equal(usage.length, 3, "what came after is nobody's");
  folding.readmitUser("ann");
  await folding.fold(hard(20), key);
});
