import t, { type Test } from "tap";
import { examine, type Report } from "../../src/doctor/examine.ts";
import { lacking, SWIFTSHADER } from "../support/requirements.ts";
import { runCli, temporaryFolder } from "../support/server.ts";

t.setTimeout(240_000);

const SOFTWARE_ADAPTER = {
  VK_ICD_FILENAMES: `${SWIFTSHADER}/vk_swiftshader_icd.json`,
  LD_LIBRARY_PATH: SWIFTSHADER,
  XDG_RUNTIME_DIR: "/tmp",
};
/** Whatever drivers this machine has, they are not found. */
const NO_VULKAN = { VK_ICD_FILENAMES: "/nowhere/icd.json" };

async function run(
  args: readonly string[],
  env: Record<string, string> = NO_VULKAN,
): Promise<{ code: number | string; out: string; err: string }> {
  const cli = runCli(args, env);
  const code = await cli.exited;
  return { code, out: cli.stdout(), err: cli.stderr() };
}

t.test("the CPU is examined by default; other devices are reported as information", async (t) => {
  const { code, out } = await run(["doctor", "--json"]);
  t.equal(code, 0);
  const report = JSON.parse(out) as Report;
  t.match(report, {
    ok: true,
    device: "cpu",
    precision: "fp32",
    prefixd: /^\d+\.\d+\.\d+/,
    onnxruntime: { version: /^1\.\d+\.\d+$/, library: /onnxruntime/, problem: null },
    machine: {
      node: process.version,
      platform: process.platform,
      cpu: { model: String, cores: Number },
      memory: { total: Number, available: Number },
    },
    devices: {
      cpu: {
        usable: true,
        missing: [],
        self_tests: [
          { precision: "fp32", passed: true, problem: null, requests: 6, allowed_difference: 0.002, seconds: Number },
        ],
      },
    },
    http_workers: { usable: true, problem: null, processors: 0 },
  });
  t.same(Object.keys(report.devices), ["cpu", "webgpu", "cuda"]);
  t.same(
    report.devices.webgpu!.self_tests.map(({ precision }) => precision),
    ["fp32", "fp16"],
  );
  t.same(
    report.devices.cuda!.self_tests.map(({ precision }) => precision),
    ["fp16"],
  );
  t.ok(Array.isArray(report.warnings));
});

t.test(
  "a requested device that does not work exits 1 and says what is missing",
  { skip: lacking("linux") },
  async (t) => {
    const { code, out } = await run(["doctor", "--device", "webgpu"]);
    t.equal(code, 1);
    t.match(out, /^webgpu: not usable\. There is no Vulkan/m);
    t.match(out, "VK_ICD_FILENAMES names no existing driver");
    t.match(out, /Self-test fp32: failed after .*No supported adapters/);
    t.match(
      out,
      /^cpu: usable\n {2}Self-test fp32: passed in [\d.]+ s: 6 requests at once, tokens as PEFT's, largest logprob difference [\d.e-]+ \(allowed 0\.002\)$/m,
    );
    t.match(out, "--device webgpu --precision fp32 does not work here.");
  },
);

t.test("CUDA, requested by the variable, is treated the same", { skip: lacking("linux", "no-cuda") }, async (t) => {
  const cuda = await run(["doctor"], { ...NO_VULKAN, PREFIXD_DEVICE: "cuda" });
  t.equal(cuda.code, 1, "the variable asks as the flag does");
  t.match(cuda.out, /^cuda: not usable\. \S/m);
  t.match(cuda.out, "--device cuda --precision fp16 does not work here.");
  for (const library of [
    "libcudart.so.12",
    "libcublas.so.12",
    "libcublasLt.so.12",
    "libcudnn.so.9",
    "libcufft.so.11",
    "libcurand.so.10",
    "libnvrtc.so.12",
  ]) {
    t.match(
      cuda.out,
      new RegExp(`CUDA 12 libraries (are missing|found): [^:]*${library.replaceAll(".", "\\.")}`),
      `${library} is found or missing`,
    );
  }
});

t.test(
  "a software adapter passes the self-test in fp32 and reports that it has no fp16",
  { skip: lacking("swiftshader") },
  async (t) => {
    // The self-test's process inherits it. A busy machine may take longer than an operator's patience.
    Object.assign(process.env, SOFTWARE_ADAPTER);
    const { ok, devices } = await examine({
      device: "webgpu",
      precision: "fp32",
      slots: 32,
      devices: ["webgpu"],
      selfTest: { timeoutMs: 200_000 },
    });
    t.equal(ok, true);
    const [fp32, fp16] = devices.webgpu!.self_tests;
    t.match(fp32, { passed: true, requests: 6 });
    t.ok(fp32!.largest_logprob_difference! < 2e-3);
    t.match(fp16, { passed: false, problem: /requires f16 but the device does not support it/ });
  },
);

t.test("it takes the flags of serve", async (t) => {
  t.match(await run(["doctor", "--device", "tpu"]), { code: 2, err: /--device tpu: expected cpu or webgpu or cuda/ });
  t.match(await run(["doctor", "--help"]), { code: 0, out: /^Usage: prefixd doctor/ });
});

const startOn = (t: Test, device: string): ReturnType<typeof run> => {
  const folder = temporaryFolder();
  t.teardown(folder.remove);
  return run([
    "serve",
    "--device",
    device,
    "--port",
    "0",
    "--store",
    `lmdb:${folder.path}/store`,
    "--cache-dir",
    `${folder.path}/cache`,
  ]);
};

t.test(
  "a start on a broken device fails with one line that names the doctor",
  { skip: lacking("linux") },
  async (t) => {
    const { code, err } = await startOn(t, "webgpu");
    t.equal(code, 1);
    const ours = err.split("\n").filter((line) => line.startsWith("prefixd: "));
    t.same(ours, [
      "prefixd: --device webgpu cannot be used: Failed to get a WebGPU adapter: No supported adapters. Run prefixd doctor --device webgpu to see what is missing.",
    ]);
    t.notMatch(err, /at .*\.ts:/, "no stack");
  },
);

t.test("so does a start on CUDA without its provider", { skip: lacking("linux", "no-cuda-provider") }, async (t) => {
  const cuda = await startOn(t, "cuda");
  t.equal(cuda.code, 1);
  t.equal(
    cuda.err,
    "prefixd: --device cuda cannot be used: ONNX Runtime's CUDA provider is not installed. Run prefixd doctor --device cuda to see what is missing.\n",
  );
});
