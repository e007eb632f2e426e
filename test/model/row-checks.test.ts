/** Kernels that round differently at few rows: the runner finds them out, and its steps have enough rows. On a double. */
import t, { type Test } from "tap";
import type { Gpt2Runner } from "../../src/model/gpt2-runner.ts";
import { answerColumns, candidatesOf } from "../../src/model/gpt2-graph.ts";
import { HostTensor, Runtime, type Binding, type Session, type SessionOptions } from "../../src/runtime/session.ts";
import { SIMULATED } from "../support/devices.ts";
import { goldenDir, isWiped } from "../support/model.ts";
import { openFixture, rowOf, type RunnerFixture } from "./runner-fixture.ts";

const MODEL = goldenDir("gelu-new-f32");
const SLOTS = 40;
const COLUMNS = answerColumns(candidatesOf({ vocabSize: 257 }));

/** Answers of a run of `rows` rows are off by `error(rows)`, in every row. */
class RoundingRuntime extends Runtime {
  readonly #error: (rows: number) => number;

  constructor(error: (rows: number) => number) {
    super();
    this.#error = error;
  }

  override session(model: string | Uint8Array, options: SessionOptions): Session {
    const session = super.session(model, options);
    const run = session.run.bind(session);
    session.run = async (binding: Binding): Promise<void> => {
      await run(binding);
      const answers = binding.tensors.find(
        (tensor): tensor is HostTensor<Float32Array> => tensor instanceof HostTensor && tensor.shape[1] === COLUMNS,
      );
      if (answers === undefined) return;
      const rows = answers.shape[0]!;
      for (let row = 0; row < rows; row++) answers.data[row * COLUMNS]! += this.#error(rows);
    };
    return session;
  }
}

async function open(
  t: Test,
  error: (rows: number) => number,
  batchInvariant = false,
): Promise<RunnerFixture & { runner: Gpt2Runner }> {
  const fixture = await openFixture(MODEL, SLOTS, {
    device: SIMULATED.handles,
    runtime: new RoundingRuntime(error),
    batchInvariant,
  });
  t.teardown(() => fixture.close());
  return fixture as RunnerFixture & { runner: Gpt2Runner };
}

/** Whether each of the first rows answers the same bits in steps of 1 to SLOTS rows. */
async function isSteady({ runner, ids }: RunnerFixture): Promise<boolean> {
  const tokens = ids(SLOTS, 1);
  const zeros = new Int32Array(SLOTS);
  const all = await runner.decode(tokens, zeros);
  const expected = Array.from({ length: SLOTS }, (_, row) => rowOf(all, row));
  let steady = true;
  for (let rows = 1; rows < SLOTS; rows++) {
    const output = await runner.decode(tokens.subarray(0, rows), zeros.subarray(0, rows));
    for (let row = 0; row < rows; row++) {
      const { topLogits, topIds, logits } = rowOf(output, row);
      steady &&= topLogits.every((value, index) => value === expected[row]!.topLogits[index]);
      t.same(topIds, expected[row]!.topIds);
      t.ok(logits.every((value, id) => value === expected[row]!.logits[id]));
    }
  }
  return steady;
}

/** Rows of answers that a step of one row brings down. */
async function answersOf({ runner, runtime }: RunnerFixture): Promise<number> {
  const before = runtime.transfers.down;
  await runner.decode(Int32Array.of(1), Int32Array.of(0));
  const rows = (runtime.transfers.down - before) / (4 * COLUMNS);
  runner.wipe(0, 0, 1);
  runner.wipeBuffers();
  return rows;
}

t.test("kernels that treat any number of rows alike: no pads", async (t) => {
  const fixture = await open(t, () => 0);
  t.equal(fixture.runner.rowsChangeBits, false);
  t.ok(await isSteady(fixture));
  t.equal(await answersOf(fixture), 2);
});

t.test("other kernels up to 8 rows: steps have at least 9", async (t) => {
  const fixture = await open(t, (rows) => (rows <= 8 ? 2 ** -12 : 0));
  for (const row of [0, 7, SLOTS - 1]) t.ok(await isWiped(fixture.runner, row), "nothing is left of the trial");
  t.equal(fixture.runner.rowsChangeBits, false);
  t.ok(await isSteady(fixture));
  t.equal(await answersOf(fixture), 9);
});

t.test("others below 32", async (t) => {
  const fixture = await open(t, (rows) => (rows < 32 ? 2 ** -12 : 0));
  t.equal(fixture.runner.rowsChangeBits, false);
  t.ok(await isSteady(fixture));
  t.equal(await answersOf(fixture), 32);
});

t.test("kernels that round differently at any number of rows: said", async (t) => {
  const fixture = await open(t, (rows) => rows * 2 ** -12);
  t.equal(fixture.runner.rowsChangeBits, true);
  t.notOk(await isSteady(fixture));
  t.equal(await answersOf(fixture), 2, "pads would not help");
});

t.test("batch-invariant: they are refused where pads do not help, and only there", async (t) => {
  await t.rejects(
    open(t, (rows) => rows * 2 ** -12, true),
    { name: "DeviceError", message: /round differently beside other requests, which --batch-invariant on forbids/ },
  );
  const fixture = await open(t, (rows) => (rows <= 8 ? 2 ** -12 : 0), true);
  t.ok(await isSteady(fixture));
});
