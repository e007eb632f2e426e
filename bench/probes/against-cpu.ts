/** The paged runner on CUDA against the CPU in fp32: prompts, chunks, decode steps, contents of rows. node --import tsx bench/probes/paged-diag.ts FOLDER|gpt2 ... */
import { openCheckpoint } from "../../src/model/checkpoint.ts";
import { ensureGraph } from "../../src/model/graph-cache.ts";
import { openRunner, type LocalRunner } from "../../src/model/open-runner.ts";
import type { Device } from "../../src/runtime/device.ts";
import { DEVICES } from "../../src/runtime/devices.ts";
import { Runtime } from "../../src/runtime/session.ts";
import type { StreamedDevice, StreamModel } from "../../src/runtime/stream-device.ts";
import { CACHE, promptIds, randomPrefix, sizedCheckpoint } from "../support/gpt2.ts";

/** The same device without captured graphs. */
const eager: StreamedDevice = {
  ...DEVICES.cuda,
  open: () => {
    const device = DEVICES.cuda.open();
    const load = device.load.bind(device);
    device.load = (runtime, path, kind): StreamModel => {
      const model = load(runtime, path, kind);
      const prepare = model.prepare.bind(model);
      model.prepare = (inputs, outputs) => {
        const run = prepare(inputs, outputs);
        run.capture = () => {
          throw new Error("not wanted");
        };
        return run;
      };
      return model;
    };
    return device;
  },
};

const CUDA: Device =
  process.env["FAKE"] === "1" ? (await import("../../test/support/devices.ts")).SIMULATED.stream : DEVICES.cuda;
const runtime = new Runtime();
for (const name of process.argv.slice(2)) {
  const checkpoint = await openCheckpoint(name === "gpt2" ? await sizedCheckpoint("gpt2") : name, { cacheDir: CACHE });
  const { shape } = checkpoint;
  const open = async (device: Device, precision: "fp16" | "fp32"): Promise<LocalRunner> =>
    openRunner(runtime, {
      modelPath: await ensureGraph(checkpoint, CACHE, precision, device),
      shape,
      slots: 8,
      threads: 4,
      device,
      precision,
      bankBytes: 0,
    });
  const [cpu, captured, plain] = [
    await open(DEVICES.cpu, "fp32"),
    await open(CUDA, CUDA === DEVICES.cuda ? "fp16" : "fp32"),
    await open(CUDA === DEVICES.cuda ? eager : CUDA, CUDA === DEVICES.cuda ? "fp16" : "fp32"),
  ];
  console.log(
    `\n${name}: heads ${shape.heads} x ${shape.headDim}, positions ${shape.positions}; ${JSON.stringify(captured.graphStats())}`,
  );
  const all = { captured, eager: plain };
  const prefix = randomPrefix(shape, 10, 3);
  const ids = (n: number, seed: number): Int32Array => promptIds(n, seed, shape.vocabSize);
  const both = async (what: string, call: (r: LocalRunner) => Promise<Float32Array[]>): Promise<void> => {
    const want = await call(cpu);
    for (const [how, runner] of Object.entries(all)) {
      const got = await call(runner);
      const worst = want.map((row, index) =>
        row.reduce((most, value, at) => Math.max(most, Math.abs(value - got[index]![at]!)), 0),
      );
      console.log(
        `  ${what.padEnd(46)} ${how.padEnd(9)} worst difference by row: ${worst.map((x) => x.toFixed(4)).join(" ")}`,
      );
    }
  };
  const rowData = async (r: LocalRunner, row: number, length: number): Promise<Float32Array[]> => {
    const { data } = await r.read(row, length);
    return Array.from({ length: 2 }, (_, part) =>
      data.filter((_, index) => Math.floor(index / (length * shape.headDim * shape.heads)) % 2 === part),
    );
  };
  const logits = (output: { logits(row: number): Float32Array }, rows: number): Float32Array[] =>
    Array.from({ length: rows }, (_, row) => output.logits(row).slice());
  await both("prompt of 5", async (r) => logits(await r.prefill(0, 0, ids(5, 1), "last"), 1));
  await both("  keys, values of it", async (r) => rowData(r, 0, 5));
  await both("7 more behind it", async (r) => logits(await r.prefill(0, 5, ids(7, 2), "last"), 1));
  await both("  keys, values of all 12", async (r) => rowData(r, 0, 12));
  await both("prompt of 16 (no pads)", async (r) => logits(await r.prefill(1, 0, ids(16, 3), "last"), 1));
  await both(
    "prefix of 10, prompt of 20",
    async (r) => (r.loadPrefix(2, prefix), logits(await r.prefill(2, 10, ids(20, 4), "last"), 1)),
  );
  await both("  keys, values of all 30", async (r) => rowData(r, 2, 30));
  await both("score of 9", async (r) => logits(await r.prefill(3, 0, ids(9, 5), "all"), 9));
  await both("decode, 1 row", async (r) => logits(await r.decode(ids(1, 6), Int32Array.of(12)), 1));
  await both("  keys, values of all 13", async (r) => rowData(r, 0, 13));
  await both("decode, 3 rows in 4", async (r) => logits(await r.decode(ids(3, 7), Int32Array.of(13, 16, 30)), 3));
  await both("decode, 4 rows", async (r) => logits(await r.decode(ids(4, 8), Int32Array.of(14, 17, 31, 9)), 4));
  await both("decode, 4 rows again", async (r) => logits(await r.decode(ids(4, 9), Int32Array.of(15, 18, 32, 10)), 4));
  await both("  keys, values of all 33", async (r) => rowData(r, 2, 33));
  await both(
    "fold of 11",
    async (r) => (await r.fold({ kind: "tokens", ids: ids(11, 3) }, 0, 11), [(await r.read(r.slots, 11)).data]),
  );
  for (const r of [cpu, captured, plain]) await r.close();
  await checkpoint.close();
}
process.exit(0);
