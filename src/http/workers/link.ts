import type { ChildProcess } from "node:child_process";
import type { Socket } from "node:net";
import { CHANNEL_FD, FrameReader, FROM_WORKER, MOST_BYTES, TO_WORKER, toMonotonic, type Handover } from "./protocol.ts";
import { RelayedSocket, type Outgoing } from "./relayed-socket.ts";

/** Bytes that are copied to be sent with the rest of a batch. */
const MOST_JOINED = 4096;

/** What a batch carried of a connection. */
interface Share {
  readonly socket: RelayedSocket;
  readonly bytes: number;
}

/** A connection that the worker may not have yet. */
interface Passing {
  readonly accepted: Socket;
  /** Node's own, which it takes out of `accepted` and closes when the worker has it. */
  readonly handle: { close(): void } | null;
}

/**
 * The engine's process's end of one worker. What one turn of the event loop writes to all of its connections is one
 * batch: one system call.
 */
export class WorkerLink implements Outgoing {
  readonly child: ChildProcess;
  readonly #channel: Socket;
  readonly #leaseUntil: () => number;
  readonly #sockets = new Map<number, RelayedSocket>();
  #lastId = 0;
  /** Node passes one at a time: when one is sent, the worker has those before it. */
  readonly #passing: Passing[] = [];
  /** Frames not yet sent: bytes as characters of Latin-1, of which strings are joined for nothing, and larger ones. */
  readonly #parts: Buffer[] = [];
  #text = "";
  #shares: Share[] = [];
  /** Batches that the worker has not confirmed, oldest first. */
  readonly #unconfirmed: { readonly batch: number; readonly shares: readonly Share[] }[] = [];
  #lastBatch = 0;
  #confirmed = 0;
  readonly #waiting: { readonly batch: number; readonly call: () => void }[] = [];
  /** Of the current batch, and as the worker knows it. */
  #lease = 0;
  #toldLease = 0;
  #over = false;

  /** @param leaseUntil the end of the lease by `performance.now()`; Infinity: there is none to hold */
  constructor(child: ChildProcess, leaseUntil: () => number) {
    this.child = child;
    this.#leaseUntil = leaseUntil;
    this.#channel = child.stdio[CHANNEL_FD] as Socket;
    const frames = new FrameReader((kind, id, bytes) => this.#frame(kind, id, bytes));
    this.#channel.on("data", (chunk: Buffer) => frames.read(chunk));
    this.#channel.on("error", () => undefined);
    child.once("exit", () => this.#end());
  }

  /** Connections it holds. */
  get size(): number {
    return this.#sockets.size;
  }

  /** Batches sent and confirmed: one that confirms none of those sent hangs. */
  get progress(): { readonly sent: number; readonly confirmed: number } {
    return { sent: this.#lastBatch, confirmed: this.#confirmed };
  }

  /** The connection as one of this worker's, to which `handOver` then gives it. */
  adopt(accepted: Socket): RelayedSocket {
    const id = ++this.#lastId;
    const socket = new RelayedSocket(this, id, head(TO_WORKER.write, id), accepted);
    this.#sockets.set(id, socket);
    return socket;
  }

  handOver(socket: RelayedSocket, accepted: Socket): void {
    // Node would ask the workers of all connections of a server before that closes, for ever if all of them have ended.
    const node = accepted as Socket & { server: unknown; readonly _handle: Passing["handle"] };
    node.server = null;
    const passing = { accepted, handle: node._handle };
    this.#passing.push(passing);
    this.child.send({ connection: socket.id } satisfies Handover, accepted, { keepOpen: false }, (error) => {
      this.#passing.splice(0, this.#passing.indexOf(passing));
      // What is left of it here, which its server counts.
      accepted.destroy();
      if (error !== null) socket.destroy();
    });
  }

  /** Resolves when the worker has all bytes sent so far, or has ended. */
  settled(): Promise<void> {
    this.#flush();
    if (this.#over || this.#confirmed === this.#lastBatch) return Promise.resolve();
    return new Promise((call) => void this.#waiting.push({ batch: this.#lastBatch, call }));
  }

  /** Makes a worker that has nothing to do show that it gets on. */
  ask(): void {
    if (this.#confirmed === this.#lastBatch) this.#send();
  }

  /** Returns the number of bytes. */
  write(socket: RelayedSocket, chunk: string | Uint8Array, encoding: BufferEncoding): number {
    this.#tellLease();
    if (typeof chunk === "string" && encoding === "latin1" && chunk.length <= MOST_BYTES)
      return this.#writeText(socket, chunk);
    const bytes = toBuffer(chunk, encoding);
    if (bytes.length <= MOST_JOINED) return this.#writeText(socket, bytes.toString("latin1"));
    this.#writeBuffer(socket, bytes);
    return bytes.length;
  }

  end({ id }: RelayedSocket): void {
    if (this.#sockets.has(id)) this.#add(head(TO_WORKER.end, id) + NOTHING);
  }

  pause({ id }: RelayedSocket): void {
    this.#add(head(TO_WORKER.pause, id) + NOTHING);
  }

  resume({ id }: RelayedSocket): void {
    if (this.#sockets.has(id)) this.#add(head(TO_WORKER.resume, id) + NOTHING);
  }

  destroy({ id }: RelayedSocket): void {
    if (this.#sockets.delete(id)) this.#add(head(TO_WORKER.destroy, id) + NOTHING);
  }

  /** Ends the worker, and with it all connections. */
  kill(): void {
    this.child.kill("SIGKILL");
  }

  /** Lets it end, since it has no connections any more. */
  release(): void {
    this.#channel.destroy();
    if (this.child.connected) this.child.disconnect();
  }

  #frame(kind: number, id: number, bytes: Buffer): void {
    if (kind === FROM_WORKER.taken) return this.#taken(id, bytes);
    const socket = this.#sockets.get(id);
    if (kind === FROM_WORKER.data) socket?.received(bytes);
    else if (kind === FROM_WORKER.end) socket?.receivedEnd();
    else if (kind === FROM_WORKER.closed && this.#sockets.delete(id)) socket?.destroy();
  }

  #taken(batch: number, pairs: Buffer): void {
    const touched = new Set<RelayedSocket>();
    while (this.#unconfirmed.length > 0 && this.#unconfirmed[0]!.batch <= batch) {
      for (const { socket, bytes } of this.#unconfirmed.shift()!.shares) {
        socket.arrived(bytes);
        touched.add(socket);
      }
    }
    for (let at = 0; at < pairs.length; at += 8) {
      const socket = this.#sockets.get(pairs.readUInt32LE(at));
      if (socket === undefined) continue;
      socket.untaken(pairs.readUInt32LE(at + 4));
      touched.add(socket);
    }
    for (const socket of touched) socket.settle();
    if (batch === 0) return;
    this.#confirmed = batch;
    while (this.#waiting.length > 0 && this.#waiting[0]!.batch <= batch) this.#waiting.shift()!.call();
  }

  /** Before the first bytes of a batch, and when it changes. Without one, nothing is written that needs it. */
  #tellLease(): void {
    const until = this.#leaseUntil();
    if (this.#shares.length > 0 && until === this.#lease) return;
    this.#lease = until;
    const told = Number.isFinite(until) && until > performance.now() ? toMonotonic(until) : 0;
    if (told === this.#toldLease) return;
    this.#toldLease = told;
    const bytes = Buffer.alloc(8);
    bytes.writeDoubleLE(told);
    this.#add(head(TO_WORKER.lease, 0) + lengthOf(8) + bytes.toString("latin1"));
  }

  #writeText(socket: RelayedSocket, text: string): number {
    this.#add(socket.writeHead + lengthOf(text.length) + text);
    this.#shares.push({ socket, bytes: text.length });
    return text.length;
  }

  #writeBuffer(socket: RelayedSocket, bytes: Buffer): void {
    for (let at = 0; at < bytes.length; at += MOST_BYTES) {
      const piece = bytes.subarray(at, at + MOST_BYTES);
      this.#add(socket.writeHead + lengthOf(piece.length));
      this.#parts.push(Buffer.from(this.#text, "latin1"), piece);
      this.#text = "";
      this.#shares.push({ socket, bytes: piece.length });
      // So that it shows how far a large answer has got.
      if (piece.length === MOST_BYTES) this.#endBatch();
    }
  }

  #add(frame: string): void {
    // Behind the tick in which streams are written (sse.ts).
    if (this.#text === "" && this.#parts.length === 0) process.nextTick(() => process.nextTick(() => this.#flush()));
    this.#text += frame;
  }

  #flush(): void {
    if (this.#text !== "" || this.#parts.length > 0) this.#send();
  }

  #endBatch(): void {
    this.#unconfirmed.push({ batch: ++this.#lastBatch, shares: this.#shares });
    this.#shares = [];
    this.#text += head(TO_WORKER.batch, this.#lastBatch) + NOTHING;
  }

  #send(): void {
    this.#endBatch();
    const parts = this.#parts.splice(0);
    parts.push(Buffer.from(this.#text, "latin1"));
    this.#text = "";
    if (this.#over) return;
    this.#channel.cork();
    for (const part of parts) this.#channel.write(part);
    this.#channel.uncork();
  }

  #end(): void {
    this.#over = true;
    const sockets = [...this.#sockets.values()];
    this.#sockets.clear();
    for (const socket of sockets) socket.destroy();
    // Node would keep them open.
    for (const { accepted, handle } of this.#passing.splice(0)) {
      accepted.destroy();
      handle?.close();
    }
    for (const { call } of this.#waiting.splice(0)) call();
  }
}

const NOTHING = String.fromCharCode(0, 0, 0, 0);
/** Lengths of events, as often as there are tokens. */
const LENGTHS = Array.from({ length: 1024 }, (_, length) => uint32(length));

const lengthOf = (length: number): string => LENGTHS[length] ?? uint32(length);

function uint32(value: number): string {
  return String.fromCharCode(value & 255, (value >>> 8) & 255, (value >>> 16) & 255, value >>> 24);
}

/** The first five of a header's bytes. */
const head = (kind: number, id: number): string => String.fromCharCode(kind) + uint32(id);

function toBuffer(chunk: string | Uint8Array, encoding: BufferEncoding): Buffer {
  if (typeof chunk === "string") return Buffer.from(chunk, encoding);
  // Sent later in this turn, as with Node's sockets, whose writers leave their bytes alone.
  return Buffer.from(chunk.buffer, chunk.byteOffset, chunk.byteLength);
}
