import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import t from "tap";
import { DataType } from "../../src/model/onnx-writer.ts";
import { OrtError } from "../../src/runtime/ort-api.ts";
import { Runtime } from "../../src/runtime/session.ts";
import { addModel, slowModel, writeModel } from "../support/tiny-model.ts";
import { SOURCES } from "../support/program.ts";

const dir = t.testdir();
const runtime = new Runtime();
t.teardown(() => runtime[Symbol.dispose]());

t.test("a tensor checks that its data fill its shape", async (t) => {
  t.throws(() => runtime.tensor(new Float32Array(3), [2, 2]), {
    name: "RangeError",
    message: "a tensor [2, 2] needs 4 elements, not 3",
  });
  t.throws(() => runtime.tensor(new Float32Array(5), [2, 2]), RangeError);
  using scalar = runtime.tensor(Int32Array.of(1), []);
  using empty = runtime.tensor(new Float32Array(0), [0, 2]);
  t.same([scalar.shape, empty.shape], [[], [0, 2]]);
});

t.test("a view into a larger array is bound where it lies", async (t) => {
  using session = runtime.session(addModel(dir), { threads: 1 });
  const memory = Float32Array.from({ length: 12 }, (_, i) => i);
  using a = runtime.tensor(memory.subarray(2, 4), [1, 2]);
  using b = runtime.tensor(memory.subarray(6, 8), [1, 2]);
  using sum = runtime.tensor(memory.subarray(9, 11), [1, 2]);
  using binding = session.binding({ a, b }, { sum });
  await session.run(binding);
  t.same([...memory], [0, 1, 2, 3, 4, 5, 6, 7, 8, 8, 10, 11]);
});

t.test("every element type reaches the model as what it is", async (t) => {
  const kinds = [
    [DataType.float, Float32Array.of(1.5, -2), Float32Array.of(3, -4)],
    [DataType.int32, Int32Array.of(1 << 20, -2), Int32Array.of(1 << 21, -4)],
    [DataType.int64, BigInt64Array.of(2n ** 40n, -2n), BigInt64Array.of(2n ** 41n, -4n)],
    [DataType.uint8, Uint8Array.of(3, 100), Uint8Array.of(6, 200)],
  ] as const;
  for (const [type, given, twice] of kinds) {
    const path = writeModel(dir, `twice-${type}`, (graph) => {
      graph.input("x", type, [2]);
      graph.node("Add", ["x", "x"], ["y"]);
      graph.output("y", type, [2]);
    });
    using session = runtime.session(path, { threads: 1 });
    using x = runtime.tensor(given, [2]);
    using y = runtime.tensor(given.slice(), [2]);
    using binding = session.binding({ x }, { y });
    await session.run(binding);
    t.same(y.data, twice);
  }
});

t.test("a binding with a wrong name is not left behind; a failed run leaves the session usable", async (t) => {
  using session = runtime.session(addModel(dir), { threads: 2, config: { "session.intra_op.allow_spinning": "0" } });
  using a = runtime.tensor(Float32Array.of(1, 2), [1, 2]);
  using sum = runtime.tensor(new Float32Array(2), [1, 2]);
  t.throws(() => session.binding({ a, c: a }, { sum }), OrtError);
  using wrong = session.binding({ a, b: a }, { total: sum });
  await t.rejects(session.run(wrong), OrtError, "an output's name is only checked by the run");
  using right = session.binding({ a, b: a }, { sum });
  await session.run(right);
  t.same([...sum.data], [2, 4]);
  t.throws(() => runtime.session("/nowhere/model.onnx", { threads: 1 }), { name: "OrtError", code: 3 });
  t.throws(() => runtime.session(addModel(dir), { threads: 1, config: { "": "1" } }), OrtError);
});

t.test("disposing twice frees once; tensors, bindings and sessions may be disposed of in any order", async (t) => {
  const tensor = runtime.tensor(Float32Array.of(1, 2), [1, 2]);
  const session = runtime.session(addModel(dir), { threads: 1 });
  const binding = session.binding({ a: tensor, b: tensor }, { sum: tensor });
  await session.run(binding);
  t.same([...tensor.data], [2, 4]);
  // A binding holds its values by reference counts of its own.
  for (const owner of [tensor, binding, session, tensor, binding, session]) owner[Symbol.dispose]();
  const other = new Runtime();
  other[Symbol.dispose]();
  other[Symbol.dispose]();
});

/** Collects garbage now: what JavaScript has not collected yet is no leak. */
setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;

/**
 * MiB that the process grows by, each time; the first rounds fill ORT's and the allocator's own caches, and V8 may make room for young
 * objects once, at any time.
 */
async function growth(rounds: number, round: () => Promise<void> | void): Promise<number> {
  const all = async (): Promise<void> => {
    for (let i = 0; i < rounds; i++) {
      const pending = round();
      if (pending !== undefined) await pending;
    }
    collect();
  };
  await all();
  let least = Infinity;
  for (let time = 0; time < 3 && least > 8; time++) {
    const before = process.memoryUsage.rss();
    await all();
    least = Math.min(least, (process.memoryUsage.rss() - before) / 2 ** 20);
  }
  return least;
}

t.test("thousands of tensors, bindings and runs leave no memory behind", async (t) => {
  using session = runtime.session(addModel(dir), { threads: 1 });
  const data = [0, 1, 2].map(() => new Float32Array(2 * 512).fill(1));
  const unused = await growth(25_000, () => {
    using a = runtime.tensor(data[0]!, [512, 2]);
    using b = runtime.tensor(data[1]!, [512, 2]);
    using sum = runtime.tensor(data[2]!, [512, 2]);
    using binding = session.binding({ a, b }, { sum });
    void binding;
  });
  t.ok(unused < 12, `${unused.toFixed(1)} MiB`);
  const used = await growth(3000, async () => {
    using a = runtime.tensor(data[0]!, [512, 2]);
    using binding = session.binding({ a, b: a }, { sum: a });
    await session.run(binding);
  });
  t.ok(used < 12, `${used.toFixed(1)} MiB`);
});

t.test("sessions that come and go leave no memory behind", async (t) => {
  const path = addModel(dir);
  const grown = await growth(500, () => {
    using session = runtime.session(path, { threads: 1 });
    void session;
  });
  t.ok(grown < 16, `${grown.toFixed(1)} MiB`);
});

t.test(
  "errors leave no memory behind: neither their statuses nor the options of a session that never was",
  async (t) => {
    // Long enough for a leak to show: ORT repeats the path in its message and copies the entries.
    const path = `/nowhere/${"x/".repeat(2000)}model.onnx`;
    const config = Object.fromEntries(Array.from({ length: 4 }, (_, i) => [`prefixd.test.${i}`, "x".repeat(1000)]));
    const grown = await growth(6_000, () => {
      try {
        runtime.session(path, { threads: 1, config });
        t.fail("it has been loaded");
      } catch (error) {
        if (!(error instanceof OrtError)) throw error;
      }
    });
    t.ok(grown < 16, `${grown.toFixed(1)} MiB`);
  },
);

t.test("what a binding or a run needs is not garbage-collected", async (t) => {
  const script = `
    import { Runtime } from ${JSON.stringify(new URL("../../src/runtime/session.ts", import.meta.url).href)};
    const runtime = new Runtime();
    const session = runtime.session(${JSON.stringify(addModel(dir))}, { threads: 1 });
    // Only the bindings are kept: two floats a tensor, which V8 would hold inside its own heap and move.
    const bindings = Array.from({ length: 3000 }, (_, i) => session.binding(
      { a: runtime.tensor(Float32Array.of(i, 1), [1, 2]), b: runtime.tensor(Float32Array.of(i, 2), [1, 2]) },
      { sum: runtime.tensor(new Float32Array(2), [1, 2]) },
    ));
    const churn = () => {
      gc();
      const garbage = Array.from({ length: 20000 }, () => Float32Array.of(-1, -1));
      return garbage.length;
    };
    churn();
    for (const [i, binding] of bindings.entries()) {
      if (i % 500 === 0) churn();
      await session.run(binding);
    }
    churn();
    let wrong = 0;
    bindings.forEach(({ tensors }, i) => { if (tensors[2].data[0] !== 2 * i || tensors[2].data[1] !== 3) wrong++; });
    console.log("wrong", wrong);

    // Nothing is kept but the result: the run itself has to hold on to what it reads.
    const size = 512;
    const slow = runtime.session(${JSON.stringify(slowModel(dir, 512, 12))}, { threads: 1 });
    const result = new Float32Array(size * size);
    const start = () => {
      const x = new Float32Array(size * size);
      for (let i = 0; i < size; i++) x[i * size + i] = 1;
      return slow.run(slow.binding({ x: runtime.tensor(x, [size, size]) }, { y: runtime.tensor(result, [size, size]) }));
    };
    const run = start();
    let running = true;
    void run.finally(() => { running = false; });
    while (running) {
      gc();
      new Float32Array(size * size).fill(9);
      await new Promise(setImmediate);
    }
    await run;
    console.log("identity", result.every((value, at) => value === (at % (size + 1) === 0 ? 1 : 0)));
  `;
  const cwd = fileURLToPath(new URL("../..", import.meta.url));
  const { stdout, stderr, status, signal } = spawnSync(
    process.execPath,
    ["--expose-gc", ...SOURCES, "--input-type=module", "-e", script],
    { cwd, encoding: "utf8", timeout: 60_000 },
  );
  t.equal(status, 0, `${signal} ${stderr}`);
  t.equal(stdout, "wrong 0\nidentity true\n");
});
