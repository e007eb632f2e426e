import t from "tap";
import { Engine } from "../../src/engine/engine.ts";
import { SupervisedRunner } from "../../src/engine/supervised-runner.ts";
import { PrefixdError } from "../../src/errors.ts";
import { FakeRunner } from "../support/fake-runner.ts";
import { engineRequest, silentObserver, submit } from "../support/model.ts";

/** A runner on a device that can go away for good: by failing, or by never answering. */
class LosableRunner extends FakeRunner {
  trouble: "none" | "fails" | "hangs" = "none";
  asked = 0;

  override prefill(...args: Parameters<FakeRunner["prefill"]>): ReturnType<FakeRunner["prefill"]> {
    return this.#troubled(() => super.prefill(...args));
  }

  override decode(...args: Parameters<FakeRunner["decode"]>): ReturnType<FakeRunner["decode"]> {
    return this.#troubled(() => super.decode(...args));
  }

  override fold(...args: Parameters<FakeRunner["fold"]>): ReturnType<FakeRunner["fold"]> {
    return this.#troubled(() => super.fold(...args));
  }

  override read(...args: Parameters<FakeRunner["read"]>): ReturnType<FakeRunner["read"]> {
    return this.#troubled(() => super.read(...args));
  }

  closed = false;
  /** Lets what hangs fail at last. */
  release: () => void = () => {};

  override close(): Promise<void> {
    this.closed = true;
    return super.close();
  }

  #troubled<T>(run: () => Promise<T>): Promise<T> {
    this.asked++;
    if (this.trouble === "hangs") return new Promise((_, reject) => (this.release = () => reject(FAILURE)));
    return this.trouble === "none" ? run() : Promise.reject(FAILURE);
  }
}

const FAILURE = new PrefixdError("model_failed", "The model run failed.");

function setup(): { runner: LosableRunner; supervised: SupervisedRunner; engine: Engine; lost: PrefixdError[] } {
  const runner = new LosableRunner(4);
  const lost: PrefixdError[] = [];
  const supervised = new SupervisedRunner(runner, { timeoutMs: 50, onLost: (error) => lost.push(error) });
  const engine = new Engine({ runner: supervised, maxQueue: 10, prefillChunk: 64, observer: silentObserver });
  return { runner, supervised, engine, lost };
}

const request = (n = 1): ReturnType<typeof engineRequest> =>
  engineRequest({ promptIds: Int32Array.of(1, 2, 3), maxNewTokens: 5, n });

t.test("a failure that does not recur ends only its requests", async (t) => {
  const { runner, engine, lost } = setup();
  runner.failOn("decode", 1, FAILURE);
  await t.rejects(submit(engine, request()).done, { code: "model_failed" });
  runner.failOn("prefill last", 1, FAILURE);
  await t.rejects(submit(engine, request()).done, { code: "model_failed" });
  t.equal((await submit(engine, request()).done)[0]!.reason, "length");
  t.same(lost, []);
});

t.test("a device that keeps failing is lost: every request is told, and the device is left alone", async (t) => {
  const { runner, engine, lost } = setup();
  const running = [submit(engine, request()).done, submit(engine, request()).done];
  runner.trouble = "fails";
  for (const outcome of await Promise.allSettled(running))
    t.match(outcome, { status: "rejected", reason: { code: "device_lost", status: 503 } });
  t.equal(lost.length, 1);
  const { asked } = runner;
  runner.trouble = "none";
  await t.rejects(submit(engine, request()).done, { code: "device_lost" });
  await t.rejects(engine.fold({ kind: "tokens", ids: Int32Array.of(1) }, { tenant: "test" }), { code: "device_lost" });
  t.equal(runner.asked, asked, "nothing is given to it any more");
});

t.test("an unresponsive device is lost, and nothing is freed while it runs", async (t) => {
  const { runner, supervised, engine, lost } = setup();
  runner.trouble = "hangs";
  await t.rejects(submit(engine, request()).done, { code: "device_lost", message: /does not answer/ });
  t.equal(lost.length, 1);
  const closed = supervised.close();
  await new Promise(setImmediate);
  t.notOk(runner.closed);
  runner.release();
  await closed;
  t.ok(runner.closed);
});

t.test("a device that is unresponsive while a fold is read is lost", async (t) => {
  const { runner, engine, lost } = setup();
  runner.during = (method) => {
    if (method === "fold") runner.trouble = "hangs";
  };
  await t.rejects(engine.fold({ kind: "tokens", ids: Int32Array.of(1) }, { tenant: "test" }), { code: "device_lost" });
  t.equal(lost.length, 1);
});

t.test("a failed row move is examined before the next run", async (t) => {
  for (const lasting of [false, true]) {
    const { runner, engine, lost } = setup();
    // The choices of n = 2 get copies of the prompt's row.
    runner.failOn("copyRow", 1, FAILURE);
    await t.rejects(submit(engine, request(2)).done, { code: "model_failed" });
    if (lasting) runner.trouble = "fails";
    const next = submit(engine, request()).done;
    if (lasting) await t.rejects(next, { code: "device_lost" });
    else t.equal((await next)[0]!.reason, "length");
    t.equal(lost.length, lasting ? 1 : 0);
    t.equal(runner.calls.fold, lasting ? 0 : 1);
  }
});
