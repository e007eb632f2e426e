/** NVIDIA's CUDA runtime, called through koffi: memory, copies and one stream. The only file that uses libcudart. */
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import koffi, { type LibraryHandle } from "koffi";
import type { Device } from "./device.ts";
import { neededLibraries } from "./elf.ts";
import { defaultLibraryPath } from "./ort-api.ts";
import type { Runtime } from "./session.ts";
import type { PinnedMemory, StreamDevice, StreamModel, Strips } from "./stream-device.ts";
import { SessionModel } from "./stream-model.ts";

const PROVIDER = "libonnxruntime_providers_cuda.so";
/** cudaStreamNonBlocking: not ordered with the default stream, which other code in the process may use. */
const NON_BLOCKING = 1;
/** cudaMemcpyKind */
const [TO_DEVICE, TO_HOST, WITHIN] = [1, 2, 3];
/** cudaDeviceProp::memPitch: larger pitches are refused. */
const LARGEST_PITCH = 2 ** 31 - 1;

const P = "void *";
const OUT = koffi.out(koffi.pointer(P));
const FUNCTIONS = {
  cudaSetDevice: ["int", ["int"]],
  cudaGetErrorName: ["str", ["int"]],
  cudaGetErrorString: ["str", ["int"]],
  cudaStreamCreateWithFlags: ["int", [OUT, "uint32_t"]],
  cudaStreamDestroy: ["int", [P]],
  cudaStreamSynchronize: ["int", [P]],
  cudaMalloc: ["int", [OUT, "size_t"]],
  cudaFree: ["int", [P]],
  cudaHostAlloc: ["int", [OUT, "size_t", "uint32_t"]],
  cudaFreeHost: ["int", [P]],
  cudaMemcpyAsync: ["int", [P, P, "size_t", "int", P]],
  cudaMemcpy2DAsync: ["int", [P, "size_t", P, "size_t", "size_t", "size_t", "int", P]],
  cudaMemset2DAsync: ["int", [P, "size_t", "int", "size_t", "size_t", P]],
} as const;
type FunctionName = keyof typeof FUNCTIONS;
interface NativeFunction {
  (...args: unknown[]): unknown;
  async(...args: unknown[]): void;
}

/** An error of a CUDA call, or of work queued before it. */
export class CudaError extends Error {
  override readonly name = "CudaError";
  /** On one line. */
  readonly reason: string;
  constructor(call: string, reason: string) {
    super(`${call}: ${reason}`);
    this.reason = reason;
  }
}

/**
 * Name of the CUDA runtime library that ONNX Runtime's provider links against; null if there is no provider or it names
 * none.
 */
export function cudaRuntimeLibrary(ortLibrary: string = defaultLibraryPath()): string | null {
  const provider = join(dirname(ortLibrary), PROVIDER);
  if (!existsSync(provider)) return null;
  return neededLibraries(provider).find((name) => name.startsWith("libcudart.so")) ?? null;
}

/** @throws CudaError when there is no CUDA or no device */
export function openCuda(): CudaDevice {
  const name = cudaRuntimeLibrary();
  if (name === null) throw new CudaError("CUDA", "ONNX Runtime's CUDA provider is not installed");
  return new CudaDevice(name);
}

export class CudaDevice implements StreamDevice {
  // Unloading the library under live function pointers would crash.
  readonly #library: LibraryHandle;
  readonly #functions: Record<FunctionName, NativeFunction>;
  readonly #stream: bigint;
  readonly #allocated: bigint[] = [];
  readonly #pinned: bigint[] = [];
  #disposed = false;

  /** @param library name or path of libcudart @throws CudaError */
  constructor(library: string) {
    try {
      this.#library = koffi.load(library);
    } catch (error) {
      throw new CudaError(library, (error as Error).message.split("\n", 1)[0]!);
    }
    this.#functions = Object.fromEntries(
      Object.entries(FUNCTIONS).map(([name, [result, parameters]]) => [
        name,
        this.#library.func(name, result, [...parameters]),
      ]),
    ) as unknown as Record<FunctionName, NativeFunction>;
    this.#call("cudaSetDevice", 0);
    this.#stream = this.#create("cudaStreamCreateWithFlags", NON_BLOCKING);
  }

  allocate(bytes: number): bigint {
    const address = this.#create("cudaMalloc", bytes);
    this.#allocated.push(address);
    return address;
  }

  allocatePinned(bytes: number): PinnedMemory {
    const address = this.#create("cudaHostAlloc", bytes, 0);
    this.#pinned.push(address);
    const buffer = koffi.view(address, bytes);
    new Uint8Array(buffer).fill(0);
    return { address, buffer };
  }

  upload(to: bigint, from: bigint, bytes: number): void {
    this.#call("cudaMemcpyAsync", to, from, bytes, TO_DEVICE, this.#stream);
  }

  download(to: bigint, from: bigint, bytes: number): void {
    this.#call("cudaMemcpyAsync", to, from, bytes, TO_HOST, this.#stream);
  }

  copy(to: Strips, from: Strips, width: number, count: number): void {
    this.#copyStrips(to, from, width, count, WITHIN);
  }

  downloadStrips(to: Strips, from: Strips, width: number, count: number): void {
    this.#copyStrips(to, from, width, count, TO_HOST);
  }

  zero(at: Strips, width: number, count: number): void {
    if (width === 0 || count === 0) return;
    if (at.pitch <= LARGEST_PITCH)
      return this.#call("cudaMemset2DAsync", at.address, at.pitch, 0, width, count, this.#stream);
    for (let strip = 0; strip < count; strip++)
      this.#call("cudaMemset2DAsync", addressOf(at, strip), width, 0, width, 1, this.#stream);
  }

  idle(): Promise<void> {
    return new Promise((resolve, reject) => {
      this.#functions.cudaStreamSynchronize.async(this.#stream, (failure: Error | null, code: number) => {
        if (failure !== null) return reject(failure);
        if (code === 0) return resolve();
        reject(this.#error("cudaStreamSynchronize", code));
      });
    });
  }

  wait(): void {
    this.#call("cudaStreamSynchronize", this.#stream);
  }

  load(runtime: Runtime, model: string | Uint8Array, device: Device): StreamModel {
    return new SessionModel(runtime, model, device, this.#stream);
  }

  [Symbol.dispose](): void {
    if (this.#disposed) return;
    this.#disposed = true;
    // A lost device answers every call with an error; then there is nothing left to free.
    for (const address of this.#allocated) this.#functions.cudaFree(address);
    for (const address of this.#pinned) this.#functions.cudaFreeHost(address);
    this.#functions.cudaStreamDestroy(this.#stream);
  }

  #copyStrips(to: Strips, from: Strips, width: number, count: number, kind: number): void {
    if (width === 0 || count === 0) return;
    if (Math.max(to.pitch, from.pitch) <= LARGEST_PITCH)
      return this.#call(
        "cudaMemcpy2DAsync",
        to.address,
        to.pitch,
        from.address,
        from.pitch,
        width,
        count,
        kind,
        this.#stream,
      );
    for (let strip = 0; strip < count; strip++)
      this.#call("cudaMemcpyAsync", addressOf(to, strip), addressOf(from, strip), width, kind, this.#stream);
  }

  #create(name: FunctionName, ...args: unknown[]): bigint {
    const out: [bigint | null] = [null];
    this.#call(name, out, ...args);
    return out[0]!;
  }

  #call(name: FunctionName, ...args: unknown[]): void {
    const code = this.#functions[name](...args) as number;
    if (code !== 0) throw this.#error(name, code);
  }

  #error(call: string, code: number): CudaError {
    return new CudaError(
      call,
      `${this.#functions.cudaGetErrorName(code) as string}: ${this.#functions.cudaGetErrorString(code) as string}`,
    );
  }
}

function addressOf({ address, pitch }: Strips, index: number): bigint {
  return address + BigInt(index) * BigInt(pitch);
}
