/** The model on WebGPU: parity with PEFT, and isolation. On SwiftShader this says nothing about speed. */
import { cpSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { randomCheckpoint } from "../../bench/support/random-checkpoint.ts";
import { dimsInParts } from "../../src/model/linear.ts";
import { DEVICES } from "../../src/runtime/devices.ts";
import { differingBits, distance, openFixture, rowOf, type Row, type RunnerFixture } from "../model/runner-fixture.ts";
import { webgpuEnvironment, webgpuSkip } from "../support/devices.ts";
import { effort } from "../support/effort.ts";
import { checkMixes, randomPrefixes } from "../support/isolation.ts";
import { foldWith, goldenDir, openTestModel } from "../support/model.ts";
import { checkParityOf } from "../support/parity.ts";
import { startServerProcess, temporaryFolder, type TestServer } from "../support/server.ts";

const file = t;
const skip = webgpuSkip();
const device = DEVICES.webgpu;

t.test("parity, and isolation: the same bits alone and in mixes of 32", { skip }, async (t) => {
  const dir = goldenDir("gelu-new-f32");
  // On a software adapter, opening takes as long as the rest of the test.
  const model = await openTestModel(dir, { prefillChunk: 64, slots: 4, device });
  // Not before the last test: as long as one session is open, ONNX Runtime keeps the shaders that it has compiled.
  file.teardown(() => model.close());
  await checkParityOf(t, model, "gelu-new-f32", { times: 1, every: effort({ short: 12, long: 2 }) });
  const real = await Promise.all(
    ["prefix-p1", "cartridge-p12", "prompt-p5"].map((name) => model.adapter(join(dir, "adapters", name))),
  );
  await checkMixes(t, model, {
    mixes: 1,
    pool: effort({ short: 5, long: 20 }),
    prefixes: [...real, ...randomPrefixes(model.runner.shape, 8, 24)],
    // Each length compiles its own shaders, which takes a software adapter seconds.
    maxPrompt: effort({ short: 4, long: 20 }),
    maxNew: effort({ short: 3, long: 10 }),
  });
});

t.test(
  "partial sums and two-level ids give the CPU's numbers, and the same bits beside any number of rows",
  { skip },
  async (t) => {
    const { path, remove } = temporaryFolder();
    t.teardown(remove);
    const inner = 2048;
    await randomCheckpoint(path, {
      model_type: "gpt2",
      vocab_size: 5000,
      n_positions: 64,
      n_layer: 1,
      n_head: 2,
      n_embd: 128,
      n_inner: inner,
      bos_token_id: 0,
      eos_token_id: 0,
    });
    t.equal(dimsInParts([inner, 128]).length, 3, "sums are cut");
    const rows = effort({ short: 4, long: 9 });
    const [host, onDevice] = [await openFixture(path, rows), await openFixture(path, rows, { device })];
    t.teardown(() => Promise.all([host.close(), onDevice.close()]));
    const { width } = host.checkpoint.config;
    const embeddings = Float32Array.from({ length: 5 * width }, (_, index) => Math.sin(index));
    const lengths = Array.from({ length: rows }, (_, row) => 6 + (row % effort({ short: 2, long: 6 })));
    const answers = async ({ runner, ids }: RunnerFixture): Promise<{ alone: Row[]; beside: Row[][] }> => {
      const prefix = await foldWith(runner, { kind: "embeddings", length: 5, data: embeddings });
      const fill = async (row: number, at: number): Promise<void> => {
        runner.loadPrefix(at, prefix);
        await runner.prefill(at, 5, ids(lengths[row]! - 5, row), "last");
      };
      const next = ids(rows, 100);
      const alone: Row[] = [];
      for (let row = 0; row < rows; row++) {
        await fill(row, 0);
        alone.push(rowOf(await runner.decode(next.subarray(row, row + 1), Int32Array.of(lengths[row]!))));
      }
      for (let row = 0; row < rows; row++) await fill(row, row);
      const beside: Row[][] = [];
      for (const count of effort({ short: [2, rows], long: [2, 3, 8, rows] })) {
        const output = await runner.decode(next.subarray(0, count), Int32Array.from(lengths.slice(0, count)));
        beside.push(Array.from({ length: count }, (_, row) => rowOf(output, row)));
      }
      return { alone, beside };
    };
    const [expected, found] = [await answers(host), await answers(onDevice)];
    t.same(
      found.alone.map(({ topIds }) => topIds[0]),
      expected.alone.map(({ topIds }) => topIds[0]),
    );
    t.ok(Math.max(...found.alone.map((row, index) => distance(row, expected.alone[index]!))) < 1e-4);
    t.ok(
      found.alone.every(({ topIds, topLogits, logits }) =>
        topIds.every((id, index) => logits[id] === topLogits[index]),
      ),
      "ids are those of their logits",
    );
    for (const step of found.beside)
      t.equal(
        step.reduce((sum, row, index) => sum + differingBits(row, found.alone[index]!), 0),
        0,
        `beside ${step.length - 1}`,
      );
  },
);

t.test("a server answers as on the CPU, uses the bank, counts bytes and stops cleanly", { skip }, async (t) => {
  const { path, remove } = temporaryFolder();
  t.teardown(remove);
  // On a software adapter the demo takes a minute to open.
  const model = join(path, "model");
  await randomCheckpoint(model, {
    model_type: "gpt2",
    vocab_size: 4096,
    n_positions: 64,
    n_layer: 1,
    n_head: 2,
    n_embd: 64,
    bos_token_id: 0,
    eos_token_id: 0,
  });
  for (const file of ["tokenizer.json", "tokenizer_config.json"]) cpSync(join("models/demo", file), join(model, file));
  const serve = async (device: string): Promise<TestServer> => {
    const data = ["--store", `lmdb:${path}/${device}`, "--cache-dir", path];
    const server = await startServerProcess(
      ["--model", model, "--device", device, "--max-batch", "2", ...data],
      webgpuEnvironment(),
    );
    t.teardown(() => server.signal("SIGKILL"));
    const put = await server.json("/prefixes/words", { text: "three blind mice" }, { method: "PUT" });
    t.equal(put.status, 201);
    return server;
  };
  const [host, onDevice] = [await serve("cpu"), await serve("webgpu")];
  const misses = await onDevice.metric("prefixd_prefix_bank_misses_total");
  const hits = await onDevice.metric("prefixd_prefix_bank_hits_total");
  const request = { prompt: "i want to book a flight", prefix_id: "words", max_new_tokens: 12, ignore_eos: true };
  const texts = async (server: TestServer): Promise<unknown[]> => {
    const { status, body } = await server.json("/generate", request);
    return [status, body.choices[0]!.text];
  };
  const expected = await texts(host);
  for (let turn = 0; turn < 2; turn++) t.same(await texts(onDevice), expected);
  t.equal(expected[0], 200);
  t.equal((await onDevice.metric("prefixd_prefix_bank_misses_total")) - misses, 1);
  t.equal((await onDevice.metric("prefixd_prefix_bank_hits_total")) - hits, 1);
  t.ok((await onDevice.metric('prefixd_device_bytes_total{direction="down"}')) > 0);
  for (const server of [host, onDevice]) {
    server.signal("SIGTERM");
    t.equal(await server.exited, 0);
  }
});
