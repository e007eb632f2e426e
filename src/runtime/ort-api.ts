/**
 * ONNX Runtime's C API, called through koffi. The only file that knows the native library: ordinals, C types, pointers.
 *
 * `OrtApi` is a struct of function pointers whose order is part of ORT's ABI: entries are only ever added at its end
 * (include/onnxruntime/core/session/onnxruntime_c_api.h). `ORDINALS` are positions in that struct, in pointers.
 */
import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import koffi, { type LibraryHandle } from "koffi";

/** The API version that we ask for; ORT serves every version up to its own. */
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

/** Execution providers that sessions can be given beside the CPU's. */
export type ExecutionProviderName = "WebGPU" | "CUDA";

/** An error that ORT reported. `code` is OrtErrorCode. */
export class OrtError extends Error {
  override readonly name = "OrtError";
  readonly code: number;
  constructor(call: string, code: number, message: string) {
    super(`${call}: ${message}`);
    this.code = code;
  }

  /** What went wrong on one line, without the places in ORT's source that come before it. */
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

// ORT 1.30 has two ways to compute GroupQueryAttention on the CPU. The newer one never holds a whole matrix of scores, but its products
// of one query use 4 lanes of a vector register where the other one's use 8, and rows of different lengths go one after the other. Read
// when a session is made; whoever has set it has a reason.
process.env["ORT_GQA_DISABLE_FLASH_ATTENTION"] ??= "1";

// ORT sends usage data to its maker from systems other than Windows, too, unless this is set before the library is loaded. A server sends nothing to
// anybody; and a process that ends while the uploader's threads look up a name can wait for them for ever, inside the dynamic loader.
process.env["ORT_DISABLE_TELEMETRY"] ??= "1";

const P = "void *";
const OUT = koffi.out(koffi.pointer(P));
const STRINGS = "const char **";
/** ORTCHAR_T: paths are UTF-16 on Windows. */
const ORT_PATH = process.platform === "win32" ? "str16" : "str";

/** name: [ordinal, result, parameters]. "status" results are OrtStatus*, null when all went well. */
const FUNCTIONS = {
  GetErrorCode: [1, "int", [P]],
  GetErrorMessage: [2, "str", [P]],
  CreateEnv: [3, "status", ["int", "str", OUT]],
  CreateSession: [7, "status", [P, ORT_PATH, P, OUT]],
  CreateSessionFromArray: [8, "status", [P, P, "size_t", P, OUT]],
  CreateSessionOptions: [10, "status", [OUT]],
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

/** The functions in use and their ordinals, for the test that checks them against the library's behaviour. */
export const ORDINALS: Readonly<Record<FunctionName, number>> = Object.fromEntries(
  Object.entries(FUNCTIONS).map(([name, [ordinal]]) => [name, ordinal]),
) as Record<FunctionName, number>;

/** Where onnxruntime-node keeps its native library for this platform. */
export function defaultLibraryPath(): string {
  const name = LIBRARY_NAMES[process.platform];
  const root = dirname(createRequire(import.meta.url).resolve("onnxruntime-node/package.json"));
  const path = join(root, "bin", "napi-v6", process.platform, process.arch, name ?? "");
  if (name === undefined || !existsSync(path))
    throw new Error(`onnxruntime-node has no native library for ${process.platform} ${process.arch}`);
  return path;
}

/**
 * Why the system's loader cannot load a shared library, in its words; null: it can, and the library stays loaded.
 * @param name a path, or a name that is looked for where the system looks
 */
export function libraryProblem(name: string): string | null {
  try {
    koffi.load(name);
    return null;
  } catch (error) {
    return (error as Error).message.replace(/^Failed to load shared library: /, "").split("\n", 1)[0]!;
  }
}

/** The loaded library. Functions throw `OrtError`; every handle must be given to its `release` exactly once. */
export class OrtApi {
  /** Such as "1.30.0". */
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
  /** Threads inside one operator, the calling one included; 0: one per core. */
  setIntraOpThreads(options: SessionOptionsHandle, threads: number): void {
    this.#call("SetIntraOpNumThreads", options, threads);
  }
  /** Puts an execution provider before those that the options have already. */
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

  /** @param model a path, or the bytes of a model without external data. */
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
  /** A tensor over memory that is not the host's: an address, or whatever the device takes for one. */
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
  /** The session's allocator for that memory; to be released before the session. */
  createAllocator(session: SessionHandle, info: MemoryInfoHandle): AllocatorHandle {
    return this.#create("CreateAllocator", session, info);
  }
  releaseAllocator(allocator: AllocatorHandle): void {
    this.#functions.ReleaseAllocator(allocator);
  }
  /** A tensor in memory of its own, freed with it. What is in it is not defined. */
  allocateTensor(allocator: AllocatorHandle, shape: readonly number[], type: ElementType): ValueHandle {
    const dims = BigInt64Array.from(shape, BigInt);
    return this.#create("CreateTensorAsOrtValue", allocator, dims, dims.length, type);
  }
  /** Where a tensor's data is. */
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

  /** Runs on a libuv thread: the event loop stays free. The same binding must not run twice at once. */
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

  /** Runs on this thread and returns when everything has been handed to the device; outputs in host memory are there then. */
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

/** OrtLoggingLevel ORT_LOGGING_LEVEL_FATAL: what goes wrong reaches us as a status, not as text on stderr. */
const LOG_FATAL = 4;
/** OrtAllocatorType OrtDeviceAllocator and OrtArenaAllocator, OrtMemType OrtMemTypeDefault. */
const DEVICE_ALLOCATOR = 0;
const ARENA_ALLOCATOR = 1;
const MEM_TYPE_DEFAULT = 0;
