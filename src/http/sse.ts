import { Socket } from "node:net";
import { setImmediate as nextTurn } from "node:timers/promises";
import type { FastifyReply } from "fastify";
import { lostTouch, type PrefixdError } from "../errors.ts";
import { errorEvent } from "./problem.ts";
import { RelayedSocket } from "./workers/relayed-socket.ts";

export interface SseOptions {
  /** Maximum unsent bytes for a slow reader. */
  readonly bufferLimit: number;
  readonly heartbeatMs: number;
  /** Milliseconds without reading any waiting bytes after which a reader is disconnected. */
  readonly sendMs: number;
  /** Called right before results are written; if it returns false, the stream ends with `store_unavailable` instead. */
  readonly mayEmit?: () => boolean;
}

/**
 * A stream of server-sent events. Headers go out with the first event or heartbeat, so that earlier failures can still
 * be ordinary error responses. Events of one turn of the event loop are written together after it. The end is written
 * at once, so that no output of a request follows its end.
 */
export class SseStream {
  readonly #reply: FastifyReply;
  readonly #options: SseOptions;
  readonly #onTooSlow: () => void;
  readonly #heartbeat: NodeJS.Timeout;
  #opened = false;
  #ended = false;
  /** Text not yet written. */
  #pending = "";
  /** Whether the pending text contains results. */
  #emits = false;
  /** The headers have reached the socket. */
  #begun = false;
  /**
   * When the reader last took any bytes: the number taken by then, and the time it was noticed. null if nothing waits.
   */
  #unread: { readonly taken: number; readonly since: number } | null = null;

  /**
   * @param onTooSlow called when the connection has been cut: more than `bufferLimit` bytes waited, or none were read
   * for `sendMs`
   */
  constructor(reply: FastifyReply, options: SseOptions, onTooSlow: () => void) {
    this.#reply = reply;
    this.#options = options;
    this.#onTooSlow = onTooSlow;
    // Heartbeat comments reveal a dead connection, which would go unnoticed while the request is queued.
    this.#heartbeat = setInterval(() => this.#add(": keep-alive\n\n"), options.heartbeatMs).unref();
  }

  get opened(): boolean {
    return this.#opened;
  }

  /** Whether bytes wait that the system has not taken yet. */
  get waiting(): boolean {
    return this.#pending !== "" || this.#reply.raw.writableLength > 0;
  }

  /** @param json the data, without line breaks */
  event(json: string): void {
    this.#emits = true;
    this.#add(`data: ${json}\n\n`);
  }

  /**
   * Writes an event at once; it may exceed the buffer limit. Resolves in a later turn of the event loop, once the
   * system has taken it; false if the stream is over.
   */
  async paced(json: string): Promise<boolean> {
    this.#emits = true;
    this.#add(`data: ${json}\n\n`);
    if (this.#isOver) return false;
    await new Promise<void>((resolve) => this.write(resolve));
    await nextTurn();
    return !this.#isOver;
  }

  /** Sends the last events and the end mark. */
  last(...events: readonly string[]): void {
    this.#emits = true;
    this.#add(`${events.map((json) => `data: ${json}\n\n`).join("")}data: [DONE]\n\n`);
    this.#end();
    this.write();
  }

  error(error: PrefixdError): void {
    this.#add(errorEvent(error, this.#reply.request));
    this.#end();
    this.write();
  }

  /** Stops the heartbeat. If the stream has not opened, an ordinary response can still be sent. */
  release(): void {
    clearInterval(this.#heartbeat);
  }

  /** Cuts the connection. */
  destroy(): void {
    this.release();
    this.#reply.hijack();
    this.#reply.raw.destroy();
  }

  get #isOver(): boolean {
    return this.#ended || this.#reply.raw.destroyed;
  }

  /** Writes the pending text. `onTaken` is called when the system has taken it; with it, no buffer limit applies. */
  write(onTaken?: () => void): void {
    const { raw } = this.#reply;
    if (raw.destroyed || this.#pending === "") return onTaken?.();
    // Check here, right before the system call and in the same turn.
    const lost = this.#emits && this.#options.mayEmit?.() === false;
    if (lost) this.#end();
    const text = lost ? errorEvent(lostTouch(), this.#reply.request) : this.#pending;
    this.#pending = "";
    this.#emits = false;
    // Send the end of the body in the same packet.
    if (this.#ended) raw.socket?.cork();
    this.#send(text, onTaken);
    if (this.#ended) return this.#close();
    if ((onTaken === undefined && this.#unreadBytes > this.#options.bufferLimit) || this.#isStalled()) this.#cut();
  }

  /** Without bytes on their way to a worker: those say nothing of the reader. */
  get #unreadBytes(): number {
    const { socket, writableLength } = this.#reply.raw;
    return socket instanceof RelayedSocket ? writableLength - socket.inTransit : writableLength;
  }

  /** Whether its events cost no system call of their own. */
  get relayed(): boolean {
    return this.#reply.raw.socket instanceof RelayedSocket;
  }

  /** Checked with each event and heartbeat. */
  #isStalled(): boolean {
    const { socket, writableLength } = this.#reply.raw;
    if (writableLength === 0 || !(socket instanceof Socket)) {
      this.#unread = null;
      return false;
    }
    const taken = socket.bytesWritten - socket.writableLength;
    if (this.#unread?.taken !== taken) this.#unread = { taken, since: performance.now() };
    return performance.now() - this.#unread.since > this.#options.sendMs;
  }

  #cut(): void {
    this.destroy();
    this.#onTooSlow();
  }

  #add(text: string): void {
    if (this.#isOver) return;
    if (!this.#opened) this.#open();
    if (this.#pending === "") outbox.add(this);
    this.#pending += text;
  }

  #open(): void {
    this.#opened = true;
    this.#reply.hijack();
    for (const [name, value] of Object.entries(this.#reply.getHeaders()))
      if (value !== undefined) this.#reply.raw.setHeader(name, value);
    this.#reply.raw.writeHead(200, {
      "content-type": "text/event-stream; charset=utf-8",
      "cache-control": "no-cache, no-transform",
      "x-accel-buffering": "no",
    });
  }

  /**
   * Writes one chunk of the body. Node would frame it in four writes and gather them again, which costs more than
   * everything else per event. So chunks after the first write are framed here (RFC 9112, 7.1). With pipelining, only
   * the response whose turn it is has a socket.
   */
  #send(text: string, onTaken?: () => void): void {
    const { raw } = this.#reply;
    const { socket } = raw;
    if (!this.#begun || !raw.chunkedEncoding || !(socket instanceof Socket)) {
      raw.write(text, onTaken);
      // Node 26 holds the headers and this chunk back until the turn continues; direct writes to the socket would
      // overtake them.
      queueMicrotask(() => (this.#begun = true));
      return;
    }
    const bytes = Buffer.byteLength(text);
    socket.write(`${bytes.toString(16)}\r\n${text}\r\n`, bytes === text.length ? "latin1" : "utf8", onTaken);
  }

  #end(): void {
    this.release();
    this.#ended = true;
  }

  #close(): void {
    const { raw } = this.#reply;
    raw.end();
    // No more writes, so Node's timeout works now: without it a reader that stopped would hold connection and buffer
    // for ever.
    raw.setTimeout(this.#options.sendMs, () => this.#cut());
  }
}

/** Streams written to in one go, by themselves and through a worker: a few tenths of a millisecond. */
const WRITTEN_AT_ONCE = 32;
const RELAYED_AT_ONCE = 512;

/**
 * Streams with pending text. They are written after the turn's other work, when the engine's next run is queued:
 * readers woken in between would compete for the processor and its caches. With many streams the event loop runs in
 * between, so that the end of a run is noticed in time.
 */
class Outbox {
  readonly #streams: SseStream[] = [];

  add(stream: SseStream): void {
    if (this.#streams.push(stream) === 1) process.nextTick(() => this.#write());
  }

  #write(): void {
    const count = this.#streams[0]?.relayed === true ? RELAYED_AT_ONCE : WRITTEN_AT_ONCE;
    for (const stream of this.#streams.splice(0, count)) stream.write();
    if (this.#streams.length > 0) setImmediate(() => this.#write());
  }
}

const outbox = new Outbox();
