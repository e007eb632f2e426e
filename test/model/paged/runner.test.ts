/** What the runner on a stream tells its device: sizes, pads, captured graphs and what they fall back to, wipes. On the emulated device. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import t, { type Test } from "tap";
import { kvElements, type KvTensor } from "../../../src/kv.ts";
import { openCheckpoint } from "../../../src/model/checkpoint.ts";
import { ensureGraph } from "../../../src/model/graph-cache.ts";
import { BLOCK } from "../../../src/model/paged/layout.ts";
import { PagedRunner, rowBuckets } from "../../../src/model/paged/runner.ts";
import { DEVICES } from "../../../src/runtime/devices.ts";
import { CudaError } from "../../../src/runtime/cuda.ts";
import { Runtime } from "../../../src/runtime/session.ts";
import type { PreparedRun, StreamedDevice, StreamModel } from "../../../src/runtime/stream-device.ts";
import { EmulatedDevice } from "../../support/emulated-device.ts";
import { foldWith, goldenDir, isWiped, seededRandom } from "../../support/model.ts";

const SLOTS = 6;
const runtime = new Runtime();
t.teardown(() => runtime[Symbol.dispose]());

/** A device whose prepared runs `change` may alter. */
class ChangedDevice extends EmulatedDevice {
  readonly #change: (run: PreparedRun, index: number) => void;
  #prepared = 0;

  constructor(change: (run: PreparedRun, index: number) => void) {
    super();
    this.#change = change;
  }

  override load(given: Runtime, path: string | Uint8Array): StreamModel {
    const model = super.load(given, path);
    const prepare = model.prepare.bind(model);
    model.prepare = (inputs, outputs) => {
      const run = prepare(inputs, outputs);
      this.#change(run, this.#prepared++);
      return run;
    };
    return model;
  }
}

async function open(t: Test, device: EmulatedDevice, slots = SLOTS): Promise<PagedRunner> {
  const cache = await mkdtemp(join(tmpdir(), "prefixd-paged-"));
  const checkpoint = await openCheckpoint(goldenDir("gelu-new-f32"));
  const place: StreamedDevice = { ...DEVICES.cpu, hostMemory: false, open: () => device };
  t.teardown(async () => {
    await checkpoint.close();
    await rm(cache, { recursive: true });
  });
  const runner = await PagedRunner.open(runtime, {
    modelPath: await ensureGraph(checkpoint, cache, "fp32", place),
    shape: checkpoint.shape,
    slots,
    threads: 2,
    device: place,
    precision: "fp32",
    bankBytes: 0,
  });
  t.teardown(() => runner.close());
  return runner;
}

/** All rows, the one for folding included, at all positions. */
async function wholeRows(runner: PagedRunner): Promise<Float32Array[]> {
  const rows: Float32Array[] = [];
  for (let row = 0; row <= SLOTS; row++) rows.push((await runner.read(row, runner.shape.positions)).data);
  return rows;
}

const idsOf = (length: number, seed: number): Int32Array => {
  const random = seededRandom(seed);
  return Int32Array.from({ length }, () => Math.floor(random() * 200));
};

const randomPrefix = ({ shape }: PagedRunner, length: number, seed: number): KvTensor => {
  const random = seededRandom(seed);
  return { length, data: Float32Array.from({ length: kvElements(shape, length) }, () => 2 * random() - 1) };
};

t.test(
  "sizes of step: few, each at most one and a half times the one before from 16 on, the last is all slots",
  async (t) => {
    t.same(rowBuckets(1), [1]);
    t.same(rowBuckets(5), [1, 2, 4, 5]);
    t.same(rowBuckets(32), [1, 2, 4, 8, 16, 24, 32]);
    t.same(rowBuckets(512), [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512]);
  },
);

t.test("after the start every step is one upload, one replay, one download", async (t) => {
  const device = new EmulatedDevice();
  const runner = await open(t, device);
  t.same(runner.graphStats().eager, []);
  const steps: [string, () => unknown, string[]][] = [
    ["prompt", () => runner.prefill(0, 0, idsOf(7, 1), "last"), ["upload", "replay", "download"]],
    ["decode", () => runner.decode(Int32Array.of(5), Int32Array.of(7)), ["upload", "replay", "download"]],
    ["cold prefix", () => runner.loadPrefix(1, prefix), ["upload", "run", "copy"]],
    ["hot prefix", () => runner.loadPrefix(2, prefix), ["copy"]],
    ["fork", () => runner.copyRow(1, 3, 5, 2), ["copy"]],
    ["wipe", () => runner.wipe(3, 0, 9), ["zero"]],
    ["wipe of nothing", () => runner.wipe(3, 4, 4), ["zero"]],
  ];
  const prefix = randomPrefix(runner, 9, 1);
  for (const [name, call, expected] of steps) {
    device.log.length = 0;
    await call();
    t.same(device.log, expected, name);
  }
});

t.test("several prompts in one run are, to the bit, what each is in a run of its own", async (t) => {
  const [together, alone] = [await open(t, new EmulatedDevice()), await open(t, new EmulatedDevice())];
  t.equal(together.promptsAtOnce, SLOTS);
  const prefix = randomPrefix(together, 9, 1);
  for (const lengths of [[4, 1, 7], [1, 1], [30, 2, 2, 2, 2, 2], [16]]) {
    // Rows in any order.
    const chunks = lengths.map((length, index) => ({
      row: lengths.length - 1 - index,
      start: index % 2 === 0 ? 9 : 0,
      ids: idsOf(length, index),
    }));
    for (const runner of [together, alone])
      for (const { row, start } of chunks) if (start > 0) runner.loadPrefix(row, prefix);
    const output = await together.prefillAll(chunks);
    t.equal(output.rows, chunks.length);
    const { candidates } = output;
    for (const [index, { row, start, ids }] of chunks.entries()) {
      const own = await alone.prefill(row, start, ids, "last");
      t.same(output.logits(index), own.logits(0));
      t.same(output.topIds.slice(index * candidates, (index + 1) * candidates), own.topIds.slice(0, candidates));
      t.equal(output.logSumExp[index], own.logSumExp[0]);
      const { positions } = together.shape;
      t.same(await together.read(row, positions), await alone.read(row, positions));
    }
  }
  await t.rejects(
    together.prefillAll(Array.from({ length: SLOTS + 1 }, (_, row) => ({ row, start: 0, ids: idsOf(1, row) }))),
    RangeError,
  );
});

t.test("padding is written to a row of its own", async (t) => {
  const runner = await open(t, new EmulatedDevice());
  const before = Array.from({ length: SLOTS + 1 }, (_, row) => randomPrefix(runner, 20, row));
  for (const [row, prefix] of before.entries()) runner.loadPrefix(row, prefix);
  const rows = await wholeRows(runner);
  // 3 rows in a run of 4, 5 tokens in a run of 16.
  await runner.decode(Int32Array.of(1, 2, 3), Int32Array.of(20, 20, 20));
  await runner.prefill(4, 20, idsOf(5, 2), "last");
  const { shape } = runner;
  const changed = (await wholeRows(runner)).map((now, row) => {
    const positions = new Set<number>();
    now.forEach(
      (value, index) =>
        value === rows[row]![index] || positions.add(Math.floor(index / shape.headDim) % shape.positions),
    );
    return [...positions].sort((a, b) => a - b);
  });
  t.same(changed, [[20], [20], [20], [], [20, 21, 22, 23, 24], [], []]);
});

t.test(
  "a size whose graph gives other answers, or cannot be captured, runs kernel by kernel and says why",
  async (t) => {
    const wrong = new ChangedDevice((run, index) => {
      // Of decode runs the first one's graph does nothing, and the second one's cannot be made.
      if (index === 0) run.replay = () => {};
      if (index === 1) {
        run.capture = () => {
          throw new Error("operation not permitted when stream is capturing");
        };
      }
    });
    const runner = await open(t, wrong);
    t.same(runner.graphStats().eager, [
      { size: "decode of 1", reason: "the captured graph's answers differ from a kernel-by-kernel run" },
      { size: "decode of 2", reason: "operation not permitted when stream is capturing" },
    ]);
    const whole = await open(t, new EmulatedDevice());
    for (const each of [runner, whole]) for (const row of [0, 1]) await each.prefill(row, 0, idsOf(6, row), "last");
    for (const rows of [1, 2]) {
      wrong.log.length = 0;
      const [ids, positions] = [idsOf(rows, 9), new Int32Array(rows).fill(6)];
      const [got, expected] = [await runner.decode(ids, positions), await whole.decode(ids, positions)];
      t.same(wrong.log, ["upload", "run", "download"]);
      for (let row = 0; row < rows; row++) t.same(got.logits(row), expected.logits(row));
    }
  },
);

t.test("nothing of trials is left: rows and buffers are zeros at the start, and after wipes", async (t) => {
  const device = new EmulatedDevice();
  const runner = await open(t, device);
  for (let row = 0; row <= SLOTS; row++) t.ok(await isWiped(runner, row), `row ${row}`);
  runner.loadPrefix(0, randomPrefix(runner, 30, 1));
  await runner.prefill(0, 30, idsOf(12, 1), "last");
  await runner.prefill(1, 0, idsOf(12, 2), "all");
  await foldWith(runner, { kind: "embeddings", length: 3, data: new Float32Array(3 * runner.shape.width).fill(0.5) });
  for (let row = 0; row <= SLOTS; row++) runner.wipe(row, 0, runner.shape.positions);
  runner.wipeBuffers();
  device.wait();
  t.equal(device.nonZeroBytes(), 0, "in all memory that was ever allocated");
  t.equal(runner.bankStats().entries, 0);
});

t.test("what does not fit is refused before anything is queued", async (t) => {
  const device = new EmulatedDevice();
  const runner = await open(t, device);
  device.log.length = 0;
  const { positions } = runner.shape;
  await t.rejects(runner.prefill(0, 0, idsOf(runner.longestChunk + 100, 1), "last"), RangeError);
  await t.rejects(runner.prefill(0, positions - 3, idsOf(4, 1), "last"), RangeError);
  await t.rejects(runner.decode(Int32Array.of(1), Int32Array.of(positions)), RangeError);
  await t.rejects(runner.decode(new Int32Array(SLOTS + 1), new Int32Array(SLOTS + 1)), RangeError);
  t.throws(() => runner.loadPrefix(0, { length: 2, data: new Float32Array(3) }), RangeError);
  t.same(device.log, []);
  t.ok(positions <= BLOCK, "this model has one block a row");
});

t.test("a fault of queued work ends the step that waits for it", async (t) => {
  const device = new EmulatedDevice();
  const runner = await open(t, device);
  device.idle = () =>
    Promise.reject(
      new CudaError("cudaStreamSynchronize", "cudaErrorIllegalAddress: an illegal memory access was encountered"),
    );
  await t.rejects(runner.decode(Int32Array.of(1), Int32Array.of(0)), {
    code: "model_failed",
    cause: { name: "CudaError" },
  });
});

t.test("a device without memory for it leaves nothing", async (t) => {
  class Small extends EmulatedDevice {
    disposed = false;
    #left = 5;
    override allocate(bytes: number): bigint {
      if (this.#left-- === 0) throw new CudaError("cudaMalloc", "cudaErrorMemoryAllocation: out of memory");
      return super.allocate(bytes);
    }
    override [Symbol.dispose](): void {
      this.disposed = true;
    }
  }
  const device = new Small();
  await t.rejects(open(t, device), { name: "CudaError", reason: "cudaErrorMemoryAllocation: out of memory" });
  t.ok(device.disposed);
});
