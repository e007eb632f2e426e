/** The model on WebGPU: the same tokens as PEFT's, the same isolation. On SwiftShader this says nothing of speed. */
import { join } from "node:path";
import t from "tap";
import { DEVICES } from "../../src/runtime/devices.ts";
import { webgpuEnvironment, webgpuSkip } from "../support/devices.ts";
import { effort } from "../support/effort.ts";
import { checkMixes, randomPrefixes } from "../support/isolation.ts";
import { goldenDir, goldenModels, openTestModel } from "../support/model.ts";
import { checkParity } from "../support/parity.ts";
import { startServerProcess, temporaryFolder } from "../support/server.ts";

const skip = webgpuSkip();
const device = DEVICES.webgpu;

t.test("parity", { skip }, async (t) => {
  for (const name of ["gelu-new-f32", ...effort({ short: [], long: goldenModels().slice(-1) })]) await t.test(name, (t) => checkParity(t, name, { device, prefillChunk: 64, slots: 4, times: 1 }));
});

t.test("isolation: bit-equal alone and in mixes of 32", { skip }, async (t) => {
  const dir = goldenDir("gelu-new-f32");
  const model = await openTestModel(dir, { prefillChunk: 8, slots: 8, device });
  t.teardown(() => model.close());
  const real = await Promise.all(["prefix-p1", "cartridge-p12", "prompt-p5"].map((name) => model.adapter(join(dir, "adapters", name))));
  await checkMixes(t, model, { mixes: effort({ short: 1, long: 2 }), pool: effort({ short: 16, long: 48 }), prefixes: [...real, ...randomPrefixes(model.runner.shape, 8, 24)], maxPrompt: 20, maxNew: 10 });
});

t.test("served: prefixes from the bank, bytes counted, a clean stop", { skip }, async (t) => {
  const { path, remove } = temporaryFolder();
  t.teardown(remove);
  const args = ["--device", "webgpu", "--max-batch", "2", "--prefixes", "prefixes", "--store", `lmdb:${path}/data`, "--cache-dir", path];
  const server = await startServerProcess(args, webgpuEnvironment());
  t.teardown(() => server.signal("SIGKILL"));
  for (let turn = 0; turn < 2; turn++) {
    const { status, body } = await server.json("/generate", { prompt: "i want to book a flight to london on August 14th, 2024\n=>", prefix_id: "datenorm", max_new_tokens: 12 });
    t.equal(status, 200);
    t.equal(body.choices[0]!.text, " 2024-08-14");
  }
  t.equal(await server.metric("prefixd_prefix_bank_misses_total"), 1);
  t.equal(await server.metric("prefixd_prefix_bank_hits_total"), 1);
  t.ok((await server.metric('prefixd_device_bytes_total{direction="down"}')) > 0);
  server.signal("SIGTERM");
  t.equal(await server.exited, 0);
});
