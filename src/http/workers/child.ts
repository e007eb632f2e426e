/** An HTTP worker: holds clients' connections, and passes bytes between them and the engine's process. */
import type { Socket } from "node:net";
import { FrameReader, FROM_WORKER, frameHeader, MOST_BYTES, monotonicMs, TO_WORKER } from "./protocol.ts";

/** Bytes written at once to a client that does not keep up: what it takes of them is noticed when it has taken all. */
const PIECE_BYTES = 16_384;
/** Bytes on their way to the engine's process from which on no client is read. */
const MOST_UNSENT = 1 << 20;

interface Connection {
  readonly id: number;
  /** null: on its way here. */
  socket: Socket | null;
  /** Bytes that wait for the client, oldest first, and how many. */
  readonly waiting: Buffer[];
  waitingBytes: number;
  /** The engine's process reads no more for now. */
  paused: boolean;
  ended: boolean;
  destroyed: boolean;
  /** Bytes that the engine's process believes not taken. */
  reported: number;
  readonly onWritten: () => void;
}

export class WorkerSide {
  readonly #channel: Socket;
  readonly #connections = new Map<number, Connection>();
  /** The last that has arrived; they come in the order of their numbers. */
  #lastArrived = 0;
  /** Of the current batch. */
  readonly #written = new Set<Connection>();
  /** Their clients have taken something since the last report. */
  readonly #progressed = new Set<Connection>();
  #leaseUntil = 0;
  /** The engine's process does not keep up: nothing is read. */
  #full = false;

  constructor(channel: Socket) {
    this.#channel = channel;
    const frames = new FrameReader((kind, id, bytes) => this.#frame(kind, id, bytes));
    channel.on("data", (chunk) => frames.read(chunk));
    channel.on("drain", () => {
      if (this.#full) this.#readOn();
    });
  }

  /** @param socket undefined: it was closed on its way */
  accept(id: number, socket: Socket | undefined): void {
    // What has been lost on its way, as when this process may open no more files.
    for (let lost = this.#lastArrived + 1; lost < id; lost++) this.#lost(lost);
    this.#lastArrived = id;
    if (socket === undefined) return this.#lost(id);
    const connection = this.#connections.get(id) ?? this.#add(id);
    connection.socket = socket;
    socket.allowHalfOpen = true;
    socket.on("data", (chunk) => {
      for (let at = 0; at < chunk.length; at += MOST_BYTES)
        this.#send(FROM_WORKER.data, id, chunk.subarray(at, at + MOST_BYTES));
    });
    socket.on("end", () => this.#send(FROM_WORKER.end, id));
    socket.on("error", () => undefined);
    socket.on("close", () => {
      this.#connections.delete(id);
      this.#send(FROM_WORKER.closed, id);
    });
    if (connection.destroyed) return void socket.destroy();
    this.#flow(connection);
    this.#writeWaiting(connection);
  }

  #lost(id: number): void {
    this.#connections.delete(id);
    this.#send(FROM_WORKER.closed, id);
  }

  #frame(kind: number, id: number, bytes: Buffer): void {
    if (kind === TO_WORKER.batch) return this.#report(id, this.#written);
    if (kind === TO_WORKER.lease) {
      this.#leaseUntil = bytes.readDoubleLE();
      return;
    }
    // The two ways from the engine's process overtake one another.
    const connection = this.#connections.get(id) ?? (id > this.#lastArrived ? this.#add(id) : null);
    if (connection === null) return;
    switch (kind) {
      case TO_WORKER.write:
        return this.#write(connection, bytes);
      case TO_WORKER.end:
        connection.ended = true;
        return this.#writeWaiting(connection);
      case TO_WORKER.destroy:
        return this.#destroy(connection);
      default:
        connection.paused = kind === TO_WORKER.pause;
        this.#flow(connection);
    }
  }

  #add(id: number): Connection {
    const added: Connection = {
      id,
      socket: null,
      waiting: [],
      waitingBytes: 0,
      paused: false,
      ended: false,
      destroyed: false,
      reported: 0,
      onWritten: () => this.#onWritten(added),
    };
    this.#connections.set(id, added);
    return added;
  }

  #write(connection: Connection, bytes: Buffer): void {
    if (connection.destroyed) return;
    // Right before the system call, as everywhere. What comes after the lease is no answer any more.
    if (this.#leaseUntil !== 0 && monotonicMs() > this.#leaseUntil) return this.#destroy(connection);
    this.#written.add(connection);
    const { socket } = connection;
    if (socket !== null && connection.waitingBytes === 0 && socket.writableLength === 0) {
      socket.write(bytes, connection.onWritten);
      return;
    }
    connection.waiting.push(bytes);
    connection.waitingBytes += bytes.length;
  }

  #onWritten(connection: Connection): void {
    if (connection.destroyed) return;
    this.#writeWaiting(connection);
    if (connection.reported === 0) return;
    if (this.#progressed.size === 0) setImmediate(() => this.#report(0, this.#progressed));
    this.#progressed.add(connection);
  }

  #writeWaiting(connection: Connection): void {
    const { socket, waiting } = connection;
    if (socket === null || socket.writableLength > 0) return;
    if (waiting.length > 0) {
      const piece = takePiece(waiting);
      connection.waitingBytes -= piece.length;
      socket.write(piece, connection.onWritten);
    } else if (connection.ended) socket.end();
  }

  #destroy(connection: Connection): void {
    connection.destroyed = true;
    connection.waiting.length = connection.waitingBytes = 0;
    connection.socket?.destroy();
  }

  /** Tells what the clients have not taken of these connections; of a batch, of those that have taken all, nothing. */
  #report(batch: number, connections: Set<Connection>): void {
    const left: number[] = [];
    for (const connection of connections) {
      const { id, socket, waitingBytes } = connection;
      const bytes = connection.destroyed ? 0 : waitingBytes + (socket?.writableLength ?? 0);
      if (bytes > 0 || batch === 0) left.push(id, bytes);
      connection.reported = bytes;
    }
    connections.clear();
    this.#send(FROM_WORKER.taken, batch, Buffer.from(Uint32Array.from(left).buffer));
  }

  #flow({ socket, paused }: Connection): void {
    if (paused || this.#full) socket?.pause();
    else socket?.resume();
  }

  #readOn(): void {
    this.#full = false;
    for (const connection of this.#connections.values()) this.#flow(connection);
  }

  #send(kind: number, id: number, bytes?: Buffer): void {
    if (!this.#channel.writable) return;
    if (this.#channel.writableCorked === 0) {
      this.#channel.cork();
      process.nextTick(() => this.#channel.uncork());
    }
    this.#channel.write(frameHeader(kind, id, bytes?.length ?? 0));
    if (bytes !== undefined && bytes.length > 0) this.#channel.write(bytes);
    if (this.#full || this.#channel.writableLength <= MOST_UNSENT) return;
    this.#full = true;
    for (const connection of this.#connections.values()) this.#flow(connection);
  }
}

/** Removes at most PIECE_BYTES from the front. */
function takePiece(waiting: Buffer[]): Buffer {
  let bytes = 0;
  let count = 0;
  while (count < waiting.length && bytes + waiting[count]!.length <= PIECE_BYTES) bytes += waiting[count++]!.length;
  if (count > 0) return Buffer.concat(waiting.splice(0, count), bytes);
  const first = waiting[0]!;
  waiting[0] = first.subarray(PIECE_BYTES);
  return first.subarray(0, PIECE_BYTES);
}
