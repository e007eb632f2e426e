import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import t from "tap";
import {
  defaultLibraryPath,
  ElementType,
  GraphOptimization,
  ORDINALS,
  OrtApi,
  OrtError,
} from "../../src/runtime/ort-api.ts";
import { addModel, slowModel } from "../support/tiny-model.ts";
import { lacking } from "../support/requirements.ts";
import { SOURCES } from "../support/program.ts";

const api = new OrtApi();
const dir = t.testdir({ "garbage.onnx": "this is not protobuf" });

/** The error that a call must end with. */
function errorOf(call: () => unknown): OrtError {
  try {
    call();
  } catch (error) {
    if (error instanceof OrtError) return error;
    throw error;
  }
  throw new Error("no error");
}

t.test("the library tells its version", async (t) => {
  t.match(api.version, /^1\.\d+\.\d+$/);
  t.match(defaultLibraryPath(), /onnxruntime/);
});

t.test("the library sends no telemetry: it has no thread for it", { skip: lacking("linux") }, async (t) => {
  const script = fileURLToPath(new URL("children/threads.ts", import.meta.url));
  const env = { ...process.env };
  // Of itself the library is silent where CI is set.
  for (const name of ["ORT_DISABLE_TELEMETRY", "CI"]) delete env[name];
  const started = (given: Record<string, string>): number =>
    Number(spawnSync(process.execPath, [...SOURCES, script], { encoding: "utf8", env: { ...env, ...given } }).stdout);
  t.equal(started({}), 0);
  t.equal(started({ ORT_DISABLE_TELEMETRY: "0" }), 1, "whoever wants it can have it");
});

t.test("ordinals are those of onnxruntime_c_api.h, which only ever grows at its end", async (t) => {
  t.same(ORDINALS, {
    GetErrorCode: 1,
    GetErrorMessage: 2,
    CreateEnv: 3,
    CreateSession: 7,
    CreateSessionOptions: 10,
    DisableMemPattern: 17,
    SetSessionGraphOptimizationLevel: 23,
    SetIntraOpNumThreads: 24,
    CreateRunOptions: 39,
    CreateTensorWithDataAsOrtValue: 49,
    CreateCpuMemoryInfo: 69,
    ReleaseEnv: 92,
    ReleaseStatus: 93,
    ReleaseMemoryInfo: 94,
    ReleaseSession: 95,
    ReleaseValue: 96,
    ReleaseRunOptions: 97,
    ReleaseSessionOptions: 100,
    CreateSessionFromArray: 8,
    CreateTensorAsOrtValue: 48,
    GetTensorMutableData: 51,
    CreateMemoryInfo: 68,
    CreateAllocator: 131,
    ReleaseAllocator: 132,
    SessionOptionsAppendExecutionProvider_CUDA_V2: 204,
    CreateCUDAProviderOptions: 205,
    UpdateCUDAProviderOptions: 206,
    ReleaseCUDAProviderOptions: 208,
    SessionOptionsAppendExecutionProvider: 216,
    AddRunConfigEntry: 165,
    UpdateCUDAProviderOptionsWithValue: 263,
    AddSessionConfigEntry: 130,
    RunWithBinding: 133,
    CreateIoBinding: 134,
    ReleaseIoBinding: 135,
    BindInput: 136,
    BindOutput: 137,
  });
});

t.test("a library that is missing, or is something else, is named in the error", async (t) => {
  t.throws(
    () => new OrtApi("/nowhere/libonnxruntime.so.1"),
    /^\/nowhere\/libonnxruntime\.so\.1 cannot be loaded as ONNX Runtime: /,
  );
  const garbage = join(dir, "libonnxruntime.so.1");
  writeFileSync(garbage, "not a library");
  t.throws(() => new OrtApi(garbage), /libonnxruntime\.so\.1 cannot be loaded as ONNX Runtime/);
  t.throws(
    () => new OrtApi(otherLibrary()),
    /cannot be loaded as ONNX Runtime: .*OrtGetApiBase/,
    "a library that has no OrtGetApiBase",
  );
});

/** A shared library that this process has loaded and that is not ONNX Runtime. */
function otherLibrary(): string {
  const report = process.report.getReport() as { sharedObjects?: string[] };
  const library = report.sharedObjects?.find((path) => /libm[.-]|libm\.|libSystem|kernel32/i.test(path));
  if (library === undefined) throw new Error("this process has no shared libraries");
  return library;
}

t.test("every function does what its name says: a model is loaded, bound, run and released", async (t) => {
  const env = api.createEnv("test");
  const memory = api.createCpuMemoryInfo();
  const options = api.createSessionOptions();
  for (const level of Object.values(GraphOptimization)) api.setGraphOptimization(options, level);
  for (const threads of [0, 2, 1]) api.setIntraOpThreads(options, threads);
  api.addSessionConfig(options, "session.intra_op.allow_spinning", "0");
  const session = api.createSession(env, addModel(dir), options);
  api.releaseSessionOptions(options);
  const run = api.createRunOptions();
  api.addRunConfig(run, "memory.enable_memory_arena_shrinkage", "cpu:0");

  const [a, b, sum] = [Float32Array.of(1, 2, 3, 4), Float32Array.of(10, 20, 30, 40), new Float32Array(4)];
  const [aValue, bValue, sumValue] = [a, b, sum].map((data) =>
    api.createTensor(memory, data, [2, 2], ElementType.float32),
  );
  const binding = api.createBinding(session);
  api.bindInput(binding, "a", aValue!);
  api.bindInput(binding, "b", bValue!);
  api.bindOutput(binding, "sum", sumValue!);
  await api.run(session, run, binding);
  t.same([...sum], [11, 22, 33, 44]);
  a.fill(0.5);
  await api.run(session, run, binding);
  t.same([...sum], [10.5, 20.5, 30.5, 40.5], "the caller's memory itself is bound");
  api.bindOutput(binding, "sum", aValue!);
  await api.run(session, run, binding);
  t.same([...a], [10.5, 20.5, 30.5, 40.5], "binding a name again replaces it; input and output may be the same memory");
  t.same([...sum], [10.5, 20.5, 30.5, 40.5]);

  api.releaseBinding(binding);
  for (const value of [aValue, bValue, sumValue]) api.releaseValue(value!);
  api.releaseRunOptions(run);
  api.releaseSession(session);
  api.releaseMemoryInfo(memory);
  api.releaseEnv(env);
});

t.test("what goes wrong is an OrtError with call, code and message", async (t) => {
  const env = api.createEnv("test");
  const memory = api.createCpuMemoryInfo();
  const options = api.createSessionOptions();
  const load = (path: string): OrtError => errorOf(() => api.createSession(env, path, options));
  // OrtErrorCode: 1 fail, 2 invalid argument, 3 no such file, 7 invalid protobuf.
  t.match(load(join(dir, "absent.onnx")), { name: "OrtError", code: 3, message: /^CreateSession: .*absent\.onnx/ });
  t.match(load(join(dir, "garbage.onnx")), { code: 7, message: /Protobuf parsing failed/ });
  t.match(
    errorOf(() => api.addSessionConfig(options, "", "x")),
    { code: 2, message: /^AddSessionConfigEntry: / },
  );
  const data = new Float32Array(4);
  t.match(
    errorOf(() => api.createTensor(memory, data, [3, 2], ElementType.float32)),
    { code: 2, message: /^CreateTensorWithDataAsOrtValue: / },
    "too small for its shape",
  );
  t.match(
    errorOf(() => api.createTensor(memory, data, [-1, 2], ElementType.float32)),
    { code: 2 },
  );
  t.match(
    errorOf(() => api.setGraphOptimization(options, 7 as GraphOptimization)),
    { message: /^SetSessionGraphOptimizationLevel: / },
  );

  const session = api.createSession(env, addModel(dir), options);
  const run = api.createRunOptions();
  const value = api.createTensor(memory, data, [2, 2], ElementType.float32);
  const spoilt = api.createBinding(session);
  t.match(
    errorOf(() => api.bindInput(spoilt, "nobody", value)),
    { code: 1, message: /^BindInput: .*nobody/ },
  );
  // ORT has noted the name all the same: such a binding can only be released.
  t.throws(() => api.bindInput(spoilt, "a", value), OrtError);
  api.releaseBinding(spoilt);
  const binding = api.createBinding(session);
  api.bindInput(binding, "a", value);
  api.bindOutput(binding, "sum", value);
  await t.rejects(api.run(session, run, binding), {
    name: "OrtError",
    message: /^RunWithBinding: .*Missing Input: b/s,
  });
  const wide = api.createTensor(memory, new Float32Array(6), [2, 3], ElementType.float32);
  api.bindInput(binding, "b", wide);
  await t.rejects(api.run(session, run, binding), { code: 2, message: /invalid dimensions for input: b/ });
  const ints = api.createTensor(memory, new Int32Array(4), [2, 2], ElementType.int32);
  api.bindInput(binding, "b", ints);
  await t.rejects(api.run(session, run, binding), { code: 2, message: /int32/ });
  api.bindInput(binding, "b", value);
  data.fill(2);
  await api.run(session, run, binding);
  t.same([...data], [4, 4, 4, 4], "and the binding works when that is put right");

  api.releaseBinding(binding);
  for (const one of [value, wide, ints]) api.releaseValue(one);
  api.releaseRunOptions(run);
  api.releaseSession(session);
  api.releaseSessionOptions(options);
  api.releaseMemoryInfo(memory);
  api.releaseEnv(env);
});

t.test("the reason of an error is one line without the places in ORT's source", async (t) => {
  const reason = (message: string): string => new OrtError("RunWithBinding", 1, message).reason;
  t.equal(reason("a plain\nmessage"), "RunWithBinding: a plain message");
  t.equal(
    reason(
      "/src/webgpu_context.cc:136 void Init()::<lambda()> status == Success was false. Failed to get a WebGPU adapter: No supported adapters\n",
    ),
    "Failed to get a WebGPU adapter: No supported adapters",
  );
  t.equal(
    reason(
      "Non-zero status code returned while running Cast node. Name:'Cast_0' Status Message: shader_helper.cc:416 GenerateSourceCode Program Cast requires f16",
    ),
    "Program Cast requires f16",
  );
  t.equal(
    reason(
      "/src/bridge.cc:1988 Provider& Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library /a/b.so with error: /a/b.so: no such file",
    ),
    "/a/b.so: no such file",
  );
  t.equal(
    reason("/src/bridge.cc:1988 Provider& Get() [ONNXRuntimeError] : 1 : FAIL : CUDA failure 35"),
    "CUDA failure 35",
  );
});

t.test("a run leaves the event loop free", async (t) => {
  const env = api.createEnv("test");
  const memory = api.createCpuMemoryInfo();
  const options = api.createSessionOptions();
  api.setIntraOpThreads(options, 1);
  const size = 768;
  const session = api.createSession(env, slowModel(dir, size, 12), options);
  const run = api.createRunOptions();
  const [x, y] = [new Float32Array(size * size), new Float32Array(size * size)];
  for (let i = 0; i < size; i++) x[i * size + i] = 2;
  const [xValue, yValue] = [x, y].map((data) => api.createTensor(memory, data, [size, size], ElementType.float32));
  const binding = api.createBinding(session);
  api.bindInput(binding, "x", xValue!);
  api.bindOutput(binding, "y", yValue!);

  let running = true;
  let turns = 0;
  const started = performance.now();
  const called = api.run(session, run, binding).finally(() => (running = false));
  const blocked = performance.now() - started;
  while (running) {
    await sleep(1);
    turns++;
  }
  await called;
  const took = performance.now() - started;
  t.equal(y[0], 2 ** 13);
  t.equal(y[1], 0);
  t.ok(blocked < took / 2, `the call itself took ${blocked.toFixed(1)} of ${took.toFixed(1)} ms`);
  t.ok(turns >= Math.min(20, took / 10), `${turns} turns of the event loop in ${took.toFixed(1)} ms`);

  api.releaseBinding(binding);
  for (const value of [xValue, yValue]) api.releaseValue(value!);
  api.releaseRunOptions(run);
  api.releaseSession(session);
  api.releaseSessionOptions(options);
  api.releaseMemoryInfo(memory);
  api.releaseEnv(env);
});

t.test("errors are statuses only: nothing is printed", async (t) => {
  const script = `
    import { Runtime } from ${JSON.stringify(new URL("../../src/runtime/session.ts", import.meta.url).href)};
    const runtime = new Runtime();
    const tensor = runtime.tensor(new Float32Array(4), [2, 2]);
    const session = runtime.session(${JSON.stringify(addModel(dir))}, { threads: 1 });
    await session.run(session.binding({ a: tensor }, { sum: tensor })).catch((error) => console.log(error.name));
    try { runtime.session(${JSON.stringify(join(dir, "garbage.onnx"))}, { threads: 1 }); } catch (error) { console.log(error.name); }
  `;
  const cwd = fileURLToPath(new URL("../..", import.meta.url));
  const { stdout, stderr, status } = spawnSync(process.execPath, [...SOURCES, "--input-type=module", "-e", script], {
    cwd,
    encoding: "utf8",
    timeout: 30_000,
  });
  t.equal(status, 0);
  t.same([stdout, stderr], ["OrtError\nOrtError\n", ""]);
});
