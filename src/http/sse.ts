import { Socket } from "node:net";
import { setImmediate as nextTurn } from "node:timers/promises";
import type { FastifyReply } from "fastify";
import { toProblem, type Problem } from "./problem.ts";
import { lostTouch, type PrefixdError } from "../errors.ts";

export interface SseOptions {
  /** Bytes that may wait for a slow reader. */
  readonly bufferLimit: number;
  readonly heartbeatMs: number;
  /** A reader that takes nothing of what waits for it for so long is cut off. */
  readonly sendMs: number;
  /** Asked right before results are written; no: the stream ends with `store_unavailable` instead. */
  readonly mayEmit?: () => boolean;
}

/**
 * A stream of server-sent events. Headers go out with the first event or heartbeat, so that what fails before can still be an
 * ordinary error answer. What comes in one turn of the event loop is written after it, with one write; the end is written at once, so that
 * nothing of a request comes after it is over.
 */
export class SseStream {
  readonly #reply: FastifyReply;
  readonly #options: SseOptions;
  readonly #onTooSlow: () => void;
  readonly #heartbeat: NodeJS.Timeout;
  #opened = false;
  #ended = false;
  /** Not written yet. */
  #pending = "";
  /** There are results in it. */
  #emits = false;
  /** The header is at the socket. */
  #begun = false;
  /** Since when no byte of what waits has been taken: bytes taken by then, and the time. null: nothing waits. */
  #unread: { readonly taken: number; readonly since: number } | null = null;

  /** `onTooSlow`: more than `bufferLimit` bytes wait for the reader, or none was taken for `sendMs`; the connection has been cut. */
  constructor(reply: FastifyReply, options: SseOptions, onTooSlow: () => void) {
    this.#reply = reply;
    this.#options = options;
    this.#onTooSlow = onTooSlow;
    // Comments make a dead connection fail, which nothing else would show while a request waits in the queue.
    this.#heartbeat = setInterval(() => this.#add(": keep-alive\n\n"), options.heartbeatMs).unref();
  }

  get opened(): boolean {
    return this.#opened;
  }

  /** `json`: the data, without line breaks. */
  event(json: string): void {
    this.#emits = true;
    this.#add(`data: ${json}\n\n`);
  }

  /**
   * An event that is written at once, and may be longer than what may wait for a slow reader. Resolves in a later turn of the event loop, when the
   * system has taken it; false: the stream is over.
   */
  async paced(json: string): Promise<boolean> {
    this.#emits = true;
    this.#add(`data: ${json}\n\n`);
    if (this.#isOver) return false;
    await new Promise<void>((resolve) => this.write(resolve));
    await nextTurn();
    return !this.#isOver;
  }

  /** The last event and the end mark. */
  last(json: string): void {
    this.#emits = true;
    this.#add(`data: ${json}\n\ndata: [DONE]\n\n`);
    this.#end();
    this.write();
  }

  error(error: PrefixdError): void {
    this.#add(this.#errorEvent(error));
    this.#end();
    this.write();
  }

  /** Stops the heartbeat; what has not been opened can be answered otherwise. */
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

  /** Writes what there is. `onTaken`: hears when the system has taken it, which is then waited for however much it is. */
  write(onTaken?: () => void): void {
    const { raw } = this.#reply;
    if (raw.destroyed || this.#pending === "") return onTaken?.();
    // Asked here, right before the system call, and so in the same turn as it.
    const lost = this.#emits && this.#options.mayEmit?.() === false;
    if (lost) this.#end();
    const text = lost ? this.#errorEvent(lostTouch()) : this.#pending;
    this.#pending = "";
    this.#emits = false;
    // The end of the body goes with it.
    if (this.#ended) raw.socket?.cork();
    this.#send(text, onTaken);
    if (this.#ended) return this.#close();
    if ((onTaken === undefined && raw.writableLength > this.#options.bufferLimit) || this.#isStalled()) this.#cut();
  }

  /** Asked with each event and each heartbeat. */
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

  #errorEvent(error: PrefixdError): string {
    const problem: Problem = toProblem(error, this.#reply.request.id);
    return `event: error\ndata: ${JSON.stringify(problem)}\n\n`;
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
   * One chunk of the body. Node would frame it in four pieces and gather them again, which costs more than all else that an event
   * takes, so what comes after the header is framed here (RFC 9112, 7.1). A response that has a socket is the one whose turn it is.
   */
  #send(text: string, onTaken?: () => void): void {
    const { raw } = this.#reply;
    const { socket } = raw;
    if (!this.#begun || !raw.chunkedEncoding || !(socket instanceof Socket)) {
      raw.write(text, onTaken);
      // Until the turn goes on, Node 26 keeps the header and this piece to itself: bytes for the socket would overtake them.
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
    // Nothing is written any more, so Node can tell: a reader that stopped reading would hold the connection and its buffer for ever.
    raw.setTimeout(this.#options.sendMs, () => this.#cut());
  }
}

/** Streams that are written to before whatever else waits has its turn: a few tenths of a millisecond. */
const WRITTEN_AT_ONCE = 32;

/**
 * Streams that have something to write. They are written to when the turn's other work is done, the engine's next run queued: a reader that
 * were woken by each write would run between two of them, and take the processor or its caches away. If there are many the event loop goes
 * round in between, so that the end of a run is not noticed late.
 */
class Outbox {
  readonly #streams: SseStream[] = [];

  add(stream: SseStream): void {
    if (this.#streams.push(stream) === 1) process.nextTick(() => this.#write());
  }

  #write(): void {
    for (const stream of this.#streams.splice(0, WRITTEN_AT_ONCE)) stream.write();
    if (this.#streams.length > 0) setImmediate(() => this.#write());
  }
}

const outbox = new Outbox();
