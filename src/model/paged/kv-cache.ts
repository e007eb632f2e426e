/** The paged KV cache on a device with a stream: moving a prefix or a row, or zeroing one, is a single strided copy. */
import { kvElements, type KvTensor } from "../../kv.ts";
import { ElementType } from "../../runtime/ort-api.ts";
import type { FixedTensor, PinnedMemory, StreamDevice, StreamModel, Strips } from "../../runtime/stream-device.ts";
import { checkPrefix } from "../kv-cache.ts";
import type { PrefixBankStats } from "../prefix-bank.ts";
import { PagedBank } from "./bank.ts";
import { BLOCK, unpackTokens, type PagedLayout } from "./layout.ts";

/** Minimum size. */
const STAGING_BYTES = 8 << 20;

/** Calls run in order with the model's runs on the device's stream. */
export class PagedKvCache {
  readonly layout: PagedLayout;
  readonly #device: StreamDevice;
  readonly #base: bigint;
  readonly #bank: PagedBank;
  readonly #bankBase: bigint;
  readonly #bankBytes: number;
  readonly #packer: StreamModel;
  readonly #staging: PinnedMemory;
  /** Keys and values in KvTensor order, on the device; as large as the staging memory. */
  readonly #unpacked: bigint;
  readonly #count: (direction: "up" | "down", bytes: number) => void;

  /**
   * @param packer runs `packGraph`
   * @param bankBytes memory for hot prefixes; rounded up to hold at least one full row
   * @param count called with the bytes that cross between host and device
   * @throws CudaError when the device runs out of memory
   */
  constructor(
    device: StreamDevice,
    packer: StreamModel,
    layout: PagedLayout,
    bankBytes: number,
    count: (direction: "up" | "down", bytes: number) => void,
  ) {
    const { tensors, tensorBytes, tokenBytes, shape } = layout;
    this.layout = layout;
    this.#device = device;
    this.#packer = packer;
    this.#count = count;
    this.#base = device.allocate(tensors * tensorBytes);
    const tokens = Math.max(shape.positions, Math.floor(bankBytes / (tensors * tokenBytes)));
    this.#bank = new PagedBank(tokens, tensors * tokenBytes);
    this.#bankBytes = tokens * tensors * tokenBytes;
    this.#bankBase = device.allocate(this.#bankBytes);
    // Fits one tensor of the longest prefix in fp32, and one of a whole row in the cache's type.
    const stagingBytes = Math.max(STAGING_BYTES, 4 * layout.capacity * shape.width);
    this.#staging = device.allocatePinned(stagingBytes);
    this.#unpacked = device.allocate(stagingBytes);
    this.clear();
  }

  /** Per layer a key and a value tensor `[blocks, block, heads, headDim]`, in that order. */
  tensors(): readonly FixedTensor[] {
    const { tensors, tensorBytes, rows, columns, shape, type } = this.layout;
    return Array.from({ length: tensors }, (_, index) => ({
      address: this.#base + BigInt(index) * BigInt(tensorBytes),
      shape: [rows * columns, BLOCK, shape.heads, shape.headDim],
      type,
    }));
  }

  /** Copies a prefix into positions `[0, prefix.length)` of a row. */
  loadPrefix(row: number, prefix: KvTensor): void {
    checkPrefix(this.layout.shape, prefix);
    const { tokenBytes, tensors } = this.layout;
    const strip = prefix.length * tokenBytes;
    const first = this.#bank.hold(prefix, (at) => this.#upload(this.#bankAddress(at), prefix));
    this.#device.copy(this.#at(row, 0), { address: this.#bankAddress(first), pitch: strip }, strip, tensors);
  }

  /** Copies positions `[start, length)` of row `from` to row `to`. */
  copyRow(from: number, to: number, length: number, start: number): void {
    this.#device.copy(
      this.#at(to, start),
      this.#at(from, start),
      (length - start) * this.layout.tokenBytes,
      this.layout.tensors,
    );
  }

  /** Fills positions `[from, to)` of a row with zeros. */
  wipe(row: number, from: number, to: number): void {
    this.#device.zero(this.#at(row, from), Math.max(0, to - from) * this.layout.tokenBytes, this.layout.tensors);
  }

  /** Drops hot prefixes and zeroes the bank and the staging memory. */
  wipeBuffers(): void {
    this.#bank.clear();
    this.#device.zero({ address: this.#bankBase, pitch: this.#bankBytes }, this.#bankBytes, 1);
    const bytes = this.#staging.buffer.byteLength;
    this.#device.zero({ address: this.#unpacked, pitch: bytes }, bytes, 1);
    this.#device.wait();
    new Uint8Array(this.#staging.buffer).fill(0);
  }

  clear(): void {
    const { tensors, tensorBytes } = this.layout;
    this.#device.zero({ address: this.#base, pitch: tensorBytes }, tensorBytes, tensors);
    this.wipeBuffers();
  }

  /**
   * A copy of positions `[0, length)` of a row. Takes turns with other work: re-ordering hundreds of megabytes takes
   * longer than moving them.
   */
  async read(row: number, length: number): Promise<KvTensor> {
    const { tensors, tensorBytes, tokenBytes, shape } = this.layout;
    const data = new Float32Array(kvElements(shape, length));
    const strip = length * tokenBytes;
    const atOnce = Math.floor(this.#staging.buffer.byteLength / strip);
    for (let first = 0; first < tensors; first += atOnce) {
      const count = Math.min(atOnce, tensors - first);
      const from = this.#at(row, 0);
      this.#device.downloadStrips(
        { address: this.#staging.address, pitch: strip },
        { address: from.address + BigInt(first) * BigInt(tensorBytes), pitch: tensorBytes },
        strip,
        count,
      );
      await this.#device.idle();
      this.#count("down", count * strip);
      data.set(
        unpackTokens(this.layout, new Uint8Array(this.#staging.buffer, 0, count * strip), length),
        first * length * shape.width,
      );
    }
    return { length, data };
  }

  bankStats(): PrefixBankStats {
    return this.#bank.stats();
  }

  /** A row's tokens from `position`, in each tensor. */
  #at(row: number, position: number): Strips {
    const { rowBytes, tokenBytes, tensorBytes } = this.layout;
    return { address: this.#base + BigInt(row) * BigInt(rowBytes) + BigInt(position * tokenBytes), pitch: tensorBytes };
  }

  #bankAddress(token: number): bigint {
    return this.#bankBase + BigInt(token) * BigInt(this.layout.tensors * this.layout.tokenBytes);
  }

  /** Uploads as many tensors at a time as the staging memory holds. */
  #upload(to: bigint, { length, data }: KvTensor): void {
    const { tensors, tokenBytes, type, shape } = this.layout;
    const elements = length * shape.width;
    const staging = new Float32Array(this.#staging.buffer);
    const atOnce = Math.floor(staging.length / elements);
    for (let first = 0; first < tensors; first += atOnce) {
      const count = Math.min(atOnce, tensors - first);
      // The previous upload may still be reading the staging memory.
      this.#device.wait();
      staging.set(data.subarray(first * elements, (first + count) * elements));
      this.#device.upload(this.#unpacked, this.#staging.address, 4 * count * elements);
      const given = {
        address: this.#unpacked,
        shape: [count, shape.heads, length, shape.headDim],
        type: ElementType.float32,
      };
      const packed = {
        address: to + BigInt(first * length * tokenBytes),
        shape: [count, length, shape.heads, shape.headDim],
        type,
      };
      using run = this.#packer.prepare({ given }, { packed });
      run.run();
    }
    this.#count("up", 4 * data.length);
  }
}
