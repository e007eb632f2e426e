import type { FastifyReply } from "fastify";
import { toProblem, type Problem } from "./problem.ts";
import { lostTouch, type PrefixdError } from "../errors.ts";

export interface SseOptions {
  /** Bytes that may wait for a slow reader. */
  readonly bufferLimit: number;
  readonly heartbeatMs: number;
  /** How long the last bytes may take to leave. */
  readonly lingerMs: number;
  /** Asked right before results are written; no: the stream ends with `store_unavailable` instead. */
  readonly mayEmit?: () => boolean;
}

/**
 * A stream of server-sent events. Headers go out with the first event or heartbeat, so that what fails before can still be an
 * ordinary error answer. One write per event.
 */
export class SseStream {
  readonly #reply: FastifyReply;
  readonly #options: SseOptions;
  readonly #onTooSlow: () => void;
  readonly #heartbeat: NodeJS.Timeout;
  #opened = false;

  /** `onTooSlow`: the reader left more than `bufferLimit` bytes unread, and the connection has been cut. */
  constructor(reply: FastifyReply, options: SseOptions, onTooSlow: () => void) {
    this.#reply = reply;
    this.#options = options;
    this.#onTooSlow = onTooSlow;
    // Comments make a dead connection fail, which nothing else would show while a request waits in the queue.
    this.#heartbeat = setInterval(() => this.#write(": keep-alive\n\n"), options.heartbeatMs).unref();
  }

  get opened(): boolean {
    return this.#opened;
  }

  event(data: object): void {
    if (this.#options.mayEmit?.() === false) return this.error(lostTouch());
    this.#write(`data: ${JSON.stringify(data)}\n\n`);
  }

  /** The last event and the end mark, in one write. */
  last(data: object): void {
    if (this.#options.mayEmit?.() === false) return this.error(lostTouch());
    this.#write(`data: ${JSON.stringify(data)}\n\ndata: [DONE]\n\n`);
    this.#end();
  }

  error(error: PrefixdError): void {
    const problem: Problem = toProblem(error, this.#reply.request.id);
    this.#write(`event: error\ndata: ${JSON.stringify(problem)}\n\n`);
    this.#end();
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

  #write(text: string): void {
    const { raw } = this.#reply;
    if (raw.destroyed || raw.writableEnded) return;
    if (!this.#opened) this.#open();
    raw.write(text);
    if (raw.writableLength > this.#options.bufferLimit) {
      this.destroy();
      this.#onTooSlow();
    }
  }

  #open(): void {
    this.#opened = true;
    this.#reply.hijack();
    for (const [name, value] of Object.entries(this.#reply.getHeaders())) if (value !== undefined) this.#reply.raw.setHeader(name, value);
    this.#reply.raw.writeHead(200, { "content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache, no-transform", "x-accel-buffering": "no" });
  }

  #end(): void {
    this.release();
    const { raw } = this.#reply;
    if (raw.destroyed) return;
    raw.end();
    // A reader that stopped reading would hold the connection and its buffer for ever.
    const timer = setTimeout(() => raw.destroy(), this.#options.lingerMs).unref();
    raw.once("close", () => clearTimeout(timer));
  }
}
