import { Socket } from "node:net";

/** Bytes on their way to the client from which on a writer should wait, as Node's sockets say. */
const HIGH_WATER = 65_536;

type Callback = (error?: Error | null) => void;
/** Of Node's own, which restarts the timer of `setTimeout`. */
type Timed = { _unrefTimer(): void };

/** Where its frames go. */
export interface Outgoing {
  /** Returns the number of bytes. */
  write(socket: RelayedSocket, chunk: string | Uint8Array, encoding: BufferEncoding): number;
  end(socket: RelayedSocket): void;
  pause(socket: RelayedSocket): void;
  resume(socket: RelayedSocket): void;
  destroy(socket: RelayedSocket): void;
}

/**
 * A client's connection that a worker holds, as Node's HTTP server sees it. Not taken by the client are bytes on their
 * way to the worker, and those that the worker reports; `writableLength` is their sum.
 */
export class RelayedSocket extends Socket {
  // Node's are accessors that ask the system.
  override bytesRead = 0;
  override bytesWritten = 0;
  override writableLength = 0;
  override readonly remoteAddress: string | undefined;
  override readonly remotePort: number | undefined;
  override readonly remoteFamily: string | undefined;
  override readonly localAddress: string | undefined;
  override readonly localPort: number | undefined;
  /** Bytes on their way to the worker, which say nothing of the client. */
  inTransit = 0;
  readonly id: number;
  /** What a frame of written bytes begins with. */
  readonly writeHead: string;
  readonly #out: Outgoing;
  /** Bytes that the worker still had at its last report. */
  #untaken = 0;
  /** Bytes that the client had taken then. */
  #taken = 0;
  #needDrain = false;
  #paused = false;
  /** Callbacks of writes, and the value of `bytesWritten` once each was made. */
  readonly #callbacks: { readonly at: number; readonly call: Callback }[] = [];

  constructor(out: Outgoing, id: number, writeHead: string, accepted: Socket) {
    super({ allowHalfOpen: true });
    this.#out = out;
    this.id = id;
    this.writeHead = writeHead;
    this.remoteAddress = accepted.remoteAddress;
    this.remotePort = accepted.remotePort;
    this.remoteFamily = accepted.remoteFamily;
    this.localAddress = accepted.localAddress;
    this.localPort = accepted.localPort;
  }

  override write(
    chunk: string | Uint8Array,
    encoding?: BufferEncoding | Callback | null,
    callback?: Callback,
  ): boolean {
    // For the errors of Node's sockets.
    if (this.destroyed || this.writableEnded) return super.write(chunk, encoding as BufferEncoding, callback);
    const call = typeof encoding === "function" ? encoding : callback;
    const bytes = this.#out.write(this, chunk, typeof encoding === "string" ? encoding : "utf8");
    this.bytesWritten += bytes;
    this.inTransit += bytes;
    this.writableLength += bytes;
    if (this.timeout) this.#restartTimeout();
    if (call) this.#callbacks.push({ at: this.bytesWritten, call });
    if (this.writableLength < HIGH_WATER) return true;
    this.#needDrain = true;
    return false;
  }

  override end(chunk?: unknown, encoding?: unknown, callback?: unknown): this {
    if (typeof chunk === "string" || chunk instanceof Uint8Array)
      this.write(chunk, typeof encoding === "string" ? (encoding as BufferEncoding) : "utf8");
    const call = [chunk, encoding, callback].find((one) => typeof one === "function");
    return super.end(call as () => void);
  }

  /** The worker has these bytes of a batch, and its client has not taken `untaken` of all it got. */
  arrived(bytes: number): void {
    this.inTransit -= bytes;
    this.#untaken = 0;
  }

  untaken(bytes: number): void {
    this.#untaken = bytes;
  }

  /** Call after `arrived` and `untaken`. */
  settle(): void {
    if (this.destroyed) return;
    this.writableLength = this.inTransit + this.#untaken;
    const taken = this.bytesWritten - this.writableLength;
    if (taken !== this.#taken && this.timeout) this.#restartTimeout();
    this.#taken = taken;
    while (this.#callbacks.length > 0 && this.#callbacks[0]!.at <= taken) this.#callbacks.shift()!.call();
    if (!this.#needDrain || this.writableLength > 0) return;
    this.#needDrain = false;
    this.emit("drain");
  }

  received(bytes: Buffer): void {
    if (this.destroyed) return;
    this.bytesRead += bytes.length;
    if (this.timeout) this.#restartTimeout();
    if (this.push(bytes)) return;
    this.#paused = true;
    this.#out.pause(this);
  }

  /** The client sends no more. */
  receivedEnd(): void {
    if (!this.destroyed) this.push(null);
  }

  override _read(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#out.resume(this);
  }

  override _final(callback: Callback): void {
    this.#out.end(this);
    if (this.writableLength === 0) callback();
    else this.#callbacks.push({ at: this.bytesWritten, call: callback });
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    this.setTimeout(0);
    this.#out.destroy(this);
    const cut = this.#callbacks.splice(0);
    callback(error);
    process.nextTick(() => {
      for (const { call } of cut) call(error ?? new Error("The connection was closed before all was sent."));
      this.emit("close", error !== null);
    });
  }

  #restartTimeout(): void {
    (this as unknown as Timed)._unrefTimer();
  }
}
