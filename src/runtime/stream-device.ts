/**
 * A device whose work is queued in order on one stream, on memory at fixed addresses: what CUDA offers and a captured
 * graph needs. Only `wait` blocks; errors of queued work surface at the next call that waits for it.
 */
import type { Device } from "./device.ts";
import type { ElementType } from "./ort-api.ts";
import type { Runtime } from "./session.ts";

/** Host memory that the device can copy from and to directly. */
export interface PinnedMemory {
  readonly address: bigint;
  readonly buffer: ArrayBuffer;
}

/** Strips of equal width whose starts are `pitch` bytes apart. */
export interface Strips {
  readonly address: bigint;
  readonly pitch: number;
}

export interface StreamDevice extends Disposable {
  /** Device memory aligned to 256, with undefined content. Freed with the device. @throws CudaError */
  allocate(bytes: number): bigint;
  /** Zeroed host memory. Freed with the device; its buffer must not be used after that. */
  allocatePinned(bytes: number): PinnedMemory;
  upload(to: bigint, from: bigint, bytes: number): void;
  download(to: bigint, from: bigint, bytes: number): void;
  /** Copies strips within device memory. */
  copy(to: Strips, from: Strips, width: number, count: number): void;
  /** Copies strips to pinned memory. */
  downloadStrips(to: Strips, from: Strips, width: number, count: number): void;
  zero(at: Strips, width: number, count: number): void;
  /** Resolves when everything queued so far is done. */
  idle(): Promise<void>;
  /** Returns when everything queued so far is done. */
  wait(): void;
  /**
   * Loads a model whose runs are queued on this stream; dispose of it before the device.
   * @param model a path, or the bytes of a model without external data
   * @throws OrtError
   */
  load(runtime: Runtime, model: string | Uint8Array, device: Device): StreamModel;
}

/** A device that is used through a stream. */
export interface StreamedDevice extends Device {
  readonly open: () => StreamDevice;
}

export function isStreamed(device: Device): device is StreamedDevice {
  return "open" in device;
}

/** A tensor at a fixed device address. */
export interface FixedTensor {
  readonly address: bigint;
  readonly shape: readonly number[];
  readonly type: ElementType;
}

export interface StreamModel extends Disposable {
  /** A reusable run on these tensors. Inputs given as arrays are read on the host once, here. */
  prepare(
    inputs: Readonly<Record<string, FixedTensor | Int32Array>>,
    outputs: Readonly<Record<string, FixedTensor>>,
  ): PreparedRun;
}

export interface PreparedRun extends Disposable {
  /** Queues the run kernel by kernel: milliseconds of host time. */
  run(): void;
  /** Runs once and captures the kernels as one graph. @throws OrtError if that is impossible */
  capture(): void;
  /** Queues the captured graph: microseconds of host time. */
  replay(): void;
}
