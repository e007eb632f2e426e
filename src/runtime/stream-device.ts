/**
 * A device whose work is queued on one stream, in order, on memory at addresses of our own: what CUDA offers and a captured graph needs.
 * Nothing here waits but `wait`; faults of queued work show when something waits for it.
 */
import type { Device } from "./device.ts";
import type { ElementType } from "./ort-api.ts";
import type { Runtime } from "./session.ts";

/** Memory of the process that the device copies from and to by itself. */
export interface PinnedMemory {
  readonly address: bigint;
  readonly buffer: ArrayBuffer;
}

/** `count` strips of `width` bytes, `pitch` bytes from one's beginning to the next one's. */
export interface Strips {
  readonly address: bigint;
  readonly pitch: number;
}

export interface StreamDevice extends Disposable {
  /** Device memory, at an address that is a multiple of 256; what is in it is not defined. Freed with the device. @throws CudaError */
  allocate(bytes: number): bigint;
  /** Zeros. Freed with the device: its buffer must not be used after that. */
  allocatePinned(bytes: number): PinnedMemory;
  upload(to: bigint, from: bigint, bytes: number): void;
  download(to: bigint, from: bigint, bytes: number): void;
  /** Copies strips inside the device's memory. */
  copy(to: Strips, from: Strips, width: number, count: number): void;
  /** Copies strips to pinned memory. */
  downloadStrips(to: Strips, from: Strips, width: number, count: number): void;
  zero(at: Strips, width: number, count: number): void;
  /** When everything queued so far is done. */
  idle(): Promise<void>;
  /** Returns when everything queued so far is done. */
  wait(): void;
  /**
   * The model behind the stream's other work; it must be disposed of before the device.
   * @param model a path, or the bytes of a model without external data
   * @throws OrtError
   */
  load(runtime: Runtime, model: string | Uint8Array, device: Device): StreamModel;
}

/** A device that is worked with in this way. */
export interface StreamedDevice extends Device {
  readonly open: () => StreamDevice;
}

export function isStreamed(device: Device): device is StreamedDevice {
  return "open" in device;
}

/** A tensor at a fixed address of the device's memory. */
export interface FixedTensor {
  readonly address: bigint;
  readonly shape: readonly number[];
  readonly type: ElementType;
}

export interface StreamModel extends Disposable {
  /** A run on these tensors, as often as wanted; an input given as an array is read by the process once, here. */
  prepare(
    inputs: Readonly<Record<string, FixedTensor | Int32Array>>,
    outputs: Readonly<Record<string, FixedTensor>>,
  ): PreparedRun;
}

export interface PreparedRun extends Disposable {
  /** Queues the run, kernel by kernel: milliseconds of the host's time. */
  run(): void;
  /** Runs once and keeps the kernels as one graph. @throws OrtError where that cannot be */
  capture(): void;
  /** Queues the captured graph: microseconds of the host's time. */
  replay(): void;
}
