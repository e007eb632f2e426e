/** The KV cache over pages on a device with a stream: every move of a prefix, a row or zeros is one strided copy. */
import { kvElements, type KvTensor } from "../../kv.ts";
import type { FixedTensor, PinnedMemory, StreamDevice, Strips } from "../../runtime/stream-device.ts";
import { checkPrefix } from "../kv-cache.ts";
import type { PrefixBankStats } from "../prefix-bank.ts";
import { PagedBank } from "./bank.ts";
import { BLOCK, packTokens, unpackTokens, type PagedLayout } from "./layout.ts";

const STAGING_BYTES = 4 << 20;

/** Calls take effect in order with the runs on the device's stream. */
export class PagedKvCache {
  readonly layout: PagedLayout;
  readonly #device: StreamDevice;
  readonly #base: bigint;
  readonly #bank: PagedBank;
  readonly #bankBase: bigint;
  readonly #bankBytes: number;
  readonly #staging: PinnedMemory;
  readonly #count: (direction: "up" | "down", bytes: number) => void;

  /**
   * @param bankBytes memory for hot prefixes; at least as much as one row is taken
   * @param count is told of bytes that cross between the process's memory and the device's
   * @throws CudaError when the device has not enough memory
   */
  constructor(device: StreamDevice, layout: PagedLayout, bankBytes: number, count: (direction: "up" | "down", bytes: number) => void) {
    const { tensors, tensorBytes, tokenBytes, rowBytes, shape } = layout;
    this.layout = layout;
    this.#device = device;
    this.#count = count;
    this.#base = device.allocate(tensors * tensorBytes);
    const tokens = Math.max(shape.positions, Math.floor(bankBytes / (tensors * tokenBytes)));
    this.#bank = new PagedBank(tokens, tensors * tokenBytes);
    this.#bankBytes = tokens * tensors * tokenBytes;
    this.#bankBase = device.allocate(this.#bankBytes);
    this.#staging = device.allocatePinned(Math.max(STAGING_BYTES, rowBytes));
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
    const first = this.#bank.hold(prefix, (at) => this.#upload(this.#bankAddress(at), packTokens(this.layout, prefix)));
    this.#device.copy(this.#at(row, 0), { address: this.#bankAddress(first), pitch: strip }, strip, tensors);
  }

  /** Copies positions `[start, length)` of row `from` to row `to`. */
  copyRow(from: number, to: number, length: number, start: number): void {
    this.#device.copy(this.#at(to, start), this.#at(from, start), (length - start) * this.layout.tokenBytes, this.layout.tensors);
  }

  /** Fills positions `[from, to)` of a row with zeros. */
  wipe(row: number, from: number, to: number): void {
    this.#device.zero(this.#at(row, from), Math.max(0, to - from) * this.layout.tokenBytes, this.layout.tensors);
  }

  /** Lets go of hot prefixes, and overwrites them and what the staging memory holds. */
  wipeBuffers(): void {
    this.#bank.clear();
    this.#device.zero({ address: this.#bankBase, pitch: this.#bankBytes }, this.#bankBytes, 1);
    this.#device.wait();
    new Uint8Array(this.#staging.buffer).fill(0);
  }

  /** Fills all rows and buffers with zeros. */
  clear(): void {
    const { tensors, tensorBytes } = this.layout;
    this.#device.zero({ address: this.#base, pitch: tensorBytes }, tensorBytes, tensors);
    this.wipeBuffers();
  }

  /** A copy of positions `[0, length)` of a row. */
  read(row: number, length: number): KvTensor {
    const { tensors, tensorBytes, tokenBytes, shape } = this.layout;
    const data = new Float32Array(kvElements(shape, length));
    const strip = length * tokenBytes;
    const atOnce = Math.floor(this.#staging.buffer.byteLength / strip);
    for (let first = 0; first < tensors; first += atOnce) {
      const count = Math.min(atOnce, tensors - first);
      const from = this.#at(row, 0);
      this.#device.downloadStrips({ address: this.#staging.address, pitch: strip }, { address: from.address + BigInt(first) * BigInt(tensorBytes), pitch: tensorBytes }, strip, count);
      this.#device.wait();
      this.#count("down", count * strip);
      data.set(unpackTokens(this.layout, new Uint8Array(this.#staging.buffer, 0, count * strip), length), first * length * shape.width);
    }
    return { length, data };
  }

  bankStats(): PrefixBankStats {
    return this.#bank.stats();
  }

  /** A row's tokens from one on, in each tensor. */
  #at(row: number, position: number): Strips {
    const { rowBytes, tokenBytes, tensorBytes } = this.layout;
    return { address: this.#base + BigInt(row) * BigInt(rowBytes) + BigInt(position * tokenBytes), pitch: tensorBytes };
  }

  #bankAddress(token: number): bigint {
    return this.#bankBase + BigInt(token) * BigInt(this.layout.tensors * this.layout.tokenBytes);
  }

  /** The staging memory is free again when this returns. */
  #upload(to: bigint, bytes: Uint8Array): void {
    const staging = new Uint8Array(this.#staging.buffer);
    for (let at = 0; at < bytes.length; at += staging.length) {
      const piece = bytes.subarray(at, at + staging.length);
      staging.set(piece);
      this.#device.upload(to + BigInt(at), this.#staging.address, piece.length);
      this.#device.wait();
    }
    this.#count("up", bytes.length);
  }
}
