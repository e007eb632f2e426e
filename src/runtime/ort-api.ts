/**
 * ONNX Runtime's C API, called through koffi. The only file with the native library's ordinals, C types and pointers.
 *
 * `OrtApi` is a struct of function pointers whose order is part of ORT's ABI: entries are only ever appended
 * (include/onnxruntime/core/session/onnxruntime_c_api.h). `ORDINALS` are indices into that struct.
 */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import koffi, { type LibraryHandle } from "koffi";

/** The API version we request; ORT serves every version up to its own. */
const API_VERSION = 22;
const LIBRARY_NAMES: Partial<Record<NodeJS.Platform, string>> = {
  linux: "libonnxruntime.so.1",
  darwin: "libonnxruntime.dylib",
  win32: "onnxruntime.dll",
};

/** Native objects as opaque addresses, branded so that one kind cannot be passed for another. */
declare const brand: unique symbol;
type Handle<Kind extends string> = bigint & { readonly [brand]: Kind };
export type EnvHandle = Handle<"env">;
export type SessionHandle = Handle<"session">;
export type SessionOptionsHandle = Handle<"session options">;
export type RunOptionsHandle = Handle<"run options">;
export type MemoryInfoHandle = Handle<"memory info">;
export type AllocatorHandle = Handle<"allocator">;
export type ValueHandle = Handle<"value">;
export type BindingHandle = Handle<"binding">;

/** ONNXTensorElementDataType */
export const ElementType = { float32: 1, uint8: 2, int8: 3, int32: 6, int64: 7, bool: 9, float16: 10 } as const;
export type ElementType = (typeof ElementType)[keyof typeof ElementType];

/** GraphOptimizationLevel */
export const GraphOptimization = { none: 0, basic: 1, extended: 2, all: 99 } as const;
export type GraphOptimization = (typeof GraphOptimization)[keyof typeof GraphOptimization];

/** Execution providers that sessions can use besides the CPU's. */
export type ExecutionProviderName = "WebGPU" | "CUDA";

/** An error that ORT reported. `code` is OrtErrorCode. */
export class OrtError extends Error {
  override readonly name = "OrtError";
  readonly code: number;
  constructor(call: string, code: number, message: string) {
    super(`${call}: ${message}`);
    this.code = code;
  }

  /** The cause on one line, without the ORT source locations before it. */
  get reason(): string {
    const line = this.message.replace(/\s+/g, " ").trim();
    return line.replace(
      /^.*(?: was false\.|with error:|Status Message:(?: \S+\.cc:\d+ \w+)?|\[ONNXRuntimeError\] : \d+ : \w+ :) /,
      "",
    );
  }
}

// The default stacks of koffi overflow in ORT's shader compiler, and asynchronous calls run deep kernels.
koffi.config({ sync_stack_size: 8 << 20, async_stack_size: 8 << 20 });

// ORT 1.30 has two implementations of GroupQueryAttention on the CPU. The newer one never holds a whole score matrix,
// but its one-query products use 4 vector lanes where the older one's use 8, and it processes rows of different lengths
// one by one. Read when a session is created; a value set by the user wins.
process.env["ORT_GQA_DISABLE_FLASH_ATTENTION"] ??= "1";

// On systems other than Windows ORT sends telemetry unless this is set before the library loads. A server should not,
// and a process that exits while the uploader's threads resolve a name can hang in the dynamic loader.
process.env["ORT_DISABLE_TELEMETRY"] ??= "1";

const P = "void *";
const OUT = koffi.out(koffi.pointer(P));
const STRINGS = "const char **";
/** ORTCHAR_T: paths are UTF-16 on Windows. */
const ORT_PATH = process.platform === "win32" ? "str16" : "str";

/** name: [ordinal, result, parameters]. "status" is OrtStatus*, null on success. */
const FUNCTIONS = {
  GetErrorCode: [1, "int", [P]],
  GetErrorMessage: [2, "str", [P]],
  CreateEnv: [3, "status", ["int", "str", OUT]],
  CreateSession: [7, "status", [P, ORT_PATH, P, OUT]],
  CreateSessionFromArray: [8, "status", [P, P, "size_t", P, OUT]],
  CreateSessionOptions: [10, "status", [OUT]],
  DisableMemPattern: [17, "status", [P]],
  SetSessionGraphOptimizationLevel: [23, "status", [P, "int"]],
  SetIntraOpNumThreads: [24, "status", [P, "int"]],
  CreateRunOptions: [39, "status", [OUT]],
  CreateTensorAsOrtValue: [48, "status", [P, P, "size_t", "int", OUT]],
  CreateTensorWithDataAsOrtValue: [49, "status", [P, P, "size_t", P, "size_t", "int", OUT]],
  GetTensorMutableData: [51, "status", [P, OUT]],
  CreateMemoryInfo: [68, "status", ["str", "int", "int", "int", OUT]],
  CreateCpuMemoryInfo: [69, "status", ["int", "int", OUT]],
  ReleaseEnv: [92, "void", [P]],
  ReleaseStatus: [93, "void", [P]],
  ReleaseMemoryInfo: [94, "void", [P]],
  ReleaseSession: [95, "void", [P]],
  ReleaseValue: [96, "void", [P]],
  ReleaseRunOptions: [97, "void", [P]],
  ReleaseSessionOptions: [100, "void", [P]],
  AddSessionConfigEntry: [130, "status", [P, "str", "str"]],
  CreateAllocator: [131, "status", [P, P, OUT]],
  ReleaseAllocator: [132, "void", [P]],
  RunWithBinding: [133, "status", [P, P, P]],
  CreateIoBinding: [134, "status", [P, OUT]],
  ReleaseIoBinding: [135, "void", [P]],
  BindInput: [136, "status", [P, "str", P]],
  BindOutput: [137, "status", [P, "str", P]],
  AddRunConfigEntry: [165, "status", [P, "str", "str"]],
  SessionOptionsAppendExecutionProvider_CUDA_V2: [204, "status", [P, P]],
  CreateCUDAProviderOptions: [205, "status", [OUT]],
  UpdateCUDAProviderOptions: [206, "status", [P, STRINGS, STRINGS, "size_t"]],
  ReleaseCUDAProviderOptions: [208, "void", [P]],
  UpdateCUDAProviderOptionsWithValue: [263, "status", [P, "str", P]],
  SessionOptionsAppendExecutionProvider: [216, "status", [P, "str", STRINGS, STRINGS, "size_t"]],
} as const;
type FunctionName = keyof typeof FUNCTIONS;
interface NativeFunction {
  (...args: unknown[]): unknown;
  async(...args: unknown[]): void;
}

/** The functions in use with their ordinals, for the test that checks them against the library. */
export const ORDINALS: Readonly<Record<FunctionName, number>> = Object.fromEntries(
  Object.entries(FUNCTIONS).map(([name, [ordinal]]) => [name, ordinal]),
) as Record<FunctionName, number>;

/** Path of onnxruntime-node's native library for this platform. */
export function defaultLibraryPath(): string {
  const name = LIBRARY_NAMES[process.platform];
  const root = dirname(createRequire(import.meta.url).resolve("onnxruntime-node/package.json"));
  const path = join(root, "bin", "napi-v6", process.platform, process.arch, name ?? "");
  if (name === undefined || !existsSync(path))
    throw new Error(`onnxruntime-node has no native library for ${process.platform} ${process.arch}`);
  return path;
}

/**
 * The system loader's error for a shared library; null if it loads, and then it stays loaded.
 * @param name a path, or a name on the system's search path
 */
export function libraryProblem(name: string): string | null {
  try {
    koffi.load(name);
    return null;
  } catch (error) {
    return (error as Error).message.replace(/^Failed to load shared library: /, "").split("\n", 1)[0]!;
  }
}

/** The loaded library. Functions throw `OrtError`; pass every handle to its `release` exactly once. */
export class OrtApi {
  /** For example "1.30.0". */
  readonly version: string;
  // Unloading the library under live function pointers would crash: its handle lives as long as this object.
  readonly #library: LibraryHandle;
  readonly #functions: Record<FunctionName, NativeFunction>;

  /** @throws when the library is missing, is not ONNX Runtime or has another ABI. */
  constructor(libraryPath: string = defaultLibraryPath()) {
    let base: bigint[];
    try {
      this.#library = koffi.load(libraryPath);
      base = koffi.decode(this.#library.func("OrtGetApiBase", P, [])(), koffi.array(P, 2)) as bigint[];
    } catch (error) {
      throw new Error(`${libraryPath} cannot be loaded as ONNX Runtime: ${(error as Error).message}`, { cause: error });
    }
    this.version = (koffi.decode(base[1], koffi.proto("str", [])) as () => string)();
    if (!this.version.startsWith("1."))
      throw new Error(`ONNX Runtime ${this.version} has another ABI than 1.x: ${libraryPath}`);
    const api = (koffi.decode(base[0], koffi.proto(P, ["uint32_t"])) as (version: number) => bigint | null)(
      API_VERSION,
    );
    if (api === null)
      throw new Error(`ONNX Runtime ${this.version} does not serve API version ${API_VERSION}: ${libraryPath}`);
    const last = Math.max(...Object.values(ORDINALS));
    const table = koffi.decode(api, koffi.array(P, last + 1)) as bigint[];
    this.#functions = Object.fromEntries(
      Object.entries(FUNCTIONS).map(([name, [ordinal, result, parameters]]) => [
        name,
        koffi.decode(table[ordinal], koffi.proto(result === "status" ? P : result, [...parameters])),
      ]),
    ) as Record<FunctionName, NativeFunction>;
  }

  createEnv(logId: string): EnvHandle {
    return this.#create("CreateEnv", LOG_FATAL, logId);
  }
  releaseEnv(env: EnvHandle): void {
    this.#functions.ReleaseEnv(env);
  }

  createSessionOptions(): SessionOptionsHandle {
    return this.#create("CreateSessionOptions");
  }
  setGraphOptimization(options: SessionOptionsHandle, level: GraphOptimization): void {
    this.#call("SetSessionGraphOptimizationLevel", options, level);
  }
  /** Allocates memory as it is needed: otherwise every new input shape leaves a plan, and a block of memory for it. */
  disableMemoryPattern(options: SessionOptionsHandle): void {
    this.#call("DisableMemPattern", options);
  }
  /** Threads inside one operator, the calling one included; 0: one per core. */
  setIntraOpThreads(options: SessionOptionsHandle, threads: number): void {
    this.#call("SetIntraOpNumThreads", options, threads);
  }
  /** Adds an execution provider, preferred over those already in the options. */
  appendExecutionProvider(
    options: SessionOptionsHandle,
    name: ExecutionProviderName,
    settings: Readonly<Record<string, string>>,
    stream: bigint | null = null,
  ): void {
    const entries = [Object.keys(settings), Object.values(settings), Object.keys(settings).length] as const;
    if (name === "WebGPU") return this.#call("SessionOptionsAppendExecutionProvider", options, name, ...entries);
    const native = this.#create("CreateCUDAProviderOptions");
    try {
      this.#call("UpdateCUDAProviderOptions", native, ...entries);
      if (stream !== null) this.#call("UpdateCUDAProviderOptionsWithValue", native, "user_compute_stream", stream);
      this.#call("SessionOptionsAppendExecutionProvider_CUDA_V2", options, native);
    } finally {
      this.#functions.ReleaseCUDAProviderOptions(native);
    }
  }
  addSessionConfig(options: SessionOptionsHandle, key: string, value: string): void {
    this.#call("AddSessionConfigEntry", options, key, value);
  }
  releaseSessionOptions(options: SessionOptionsHandle): void {
    this.#functions.ReleaseSessionOptions(options);
  }

  /** @param model a path, or the bytes of a model. */
  createSession(env: EnvHandle, model: string | Uint8Array, options: SessionOptionsHandle): SessionHandle {
    if (typeof model === "string") return this.#create("CreateSession", env, model, options);
    return this.#create("CreateSessionFromArray", env, model, model.length, options);
  }
  releaseSession(session: SessionHandle): void {
    this.#functions.ReleaseSession(session);
  }

  createCpuMemoryInfo(): MemoryInfoHandle {
    return this.#create("CreateCpuMemoryInfo", ARENA_ALLOCATOR, MEM_TYPE_DEFAULT);
  }
  /** A device's own memory, such as "WebGPU_Buffer" or "Cuda"; device 0. */
  createMemoryInfo(name: string): MemoryInfoHandle {
    return this.#create("CreateMemoryInfo", name, DEVICE_ALLOCATOR, 0, MEM_TYPE_DEFAULT);
  }
  releaseMemoryInfo(info: MemoryInfoHandle): void {
    this.#functions.ReleaseMemoryInfo(info);
  }

  /** A tensor over the caller's memory, which must outlive it. */
  createTensor(
    info: MemoryInfoHandle,
    data: ArrayBufferView,
    shape: readonly number[],
    type: ElementType,
  ): ValueHandle {
    const dims = BigInt64Array.from(shape, BigInt);
    return this.#create("CreateTensorWithDataAsOrtValue", info, data, data.byteLength, dims, dims.length, type);
  }
  /** A tensor over device memory: an address, or whatever the device uses instead. */
  createTensorAt(
    info: MemoryInfoHandle,
    data: bigint,
    byteLength: number,
    shape: readonly number[],
    type: ElementType,
  ): ValueHandle {
    const dims = BigInt64Array.from(shape, BigInt);
    return this.#create("CreateTensorWithDataAsOrtValue", info, data, byteLength, dims, dims.length, type);
  }
  /** The session's allocator for that memory; release it before the session. */
  createAllocator(session: SessionHandle, info: MemoryInfoHandle): AllocatorHandle {
    return this.#create("CreateAllocator", session, info);
  }
  releaseAllocator(allocator: AllocatorHandle): void {
    this.#functions.ReleaseAllocator(allocator);
  }
  /** A tensor in memory of its own, freed with it. The content is undefined. */
  allocateTensor(allocator: AllocatorHandle, shape: readonly number[], type: ElementType): ValueHandle {
    const dims = BigInt64Array.from(shape, BigInt);
    return this.#create("CreateTensorAsOrtValue", allocator, dims, dims.length, type);
  }
  /** The address of a tensor's data. */
  dataOf(value: ValueHandle): bigint {
    return this.#create("GetTensorMutableData", value);
  }
  releaseValue(value: ValueHandle): void {
    this.#functions.ReleaseValue(value);
  }

  createRunOptions(): RunOptionsHandle {
    return this.#create("CreateRunOptions");
  }
  addRunConfig(options: RunOptionsHandle, key: string, value: string): void {
    this.#call("AddRunConfigEntry", options, key, value);
  }
  releaseRunOptions(options: RunOptionsHandle): void {
    this.#functions.ReleaseRunOptions(options);
  }

  createBinding(session: SessionHandle): BindingHandle {
    return this.#create("CreateIoBinding", session);
  }
  bindInput(binding: BindingHandle, name: string, value: ValueHandle): void {
    this.#call("BindInput", binding, name, value);
  }
  bindOutput(binding: BindingHandle, name: string, value: ValueHandle): void {
    this.#call("BindOutput", binding, name, value);
  }
  releaseBinding(binding: BindingHandle): void {
    this.#functions.ReleaseIoBinding(binding);
  }

  /** Runs on a libuv thread, off the event loop. The same binding must not run twice concurrently. */
  run(session: SessionHandle, options: RunOptionsHandle, binding: BindingHandle): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#functions.RunWithBinding.async(
        session,
        options,
        binding,
        (failure: Error | null, status: bigint | null) => {
          if (failure !== null) return reject(failure);
          if (status === null) return resolve();
          reject(this.#takeError("RunWithBinding", status));
        },
      );
    });
  }

  /** Runs on this thread. Returns when everything is queued on the device and outputs in host memory are written. */
  runNow(session: SessionHandle, options: RunOptionsHandle, binding: BindingHandle): void {
    this.#call("RunWithBinding", session, options, binding);
  }

  #create<Kind extends string>(name: FunctionName, ...args: unknown[]): Handle<Kind> {
    const out: [bigint | null] = [null];
    this.#call(name, ...args, out);
    return out[0] as Handle<Kind>;
  }

  #call(name: FunctionName, ...args: unknown[]): void {
    const status = this.#functions[name](...args) as bigint | null;
    if (status !== null) throw this.#takeError(name, status);
  }

  #takeError(call: string, status: bigint): OrtError {
    const code = this.#functions.GetErrorCode(status) as number;
    const message = this.#functions.GetErrorMessage(status) as string;
    this.#functions.ReleaseStatus(status);
    return new OrtError(call, code, message);
  }
}

/** ORT_LOGGING_LEVEL_FATAL: errors reach us as statuses, not as text on stderr. */
const LOG_FATAL = 4;
/** OrtAllocatorType OrtDeviceAllocator and OrtArenaAllocator, OrtMemType OrtMemTypeDefault. */
const DEVICE_ALLOCATOR = 0;
const ARENA_ALLOCATOR = 1;
const MEM_TYPE_DEFAULT = 0;
