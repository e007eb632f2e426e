import type { IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import type { FastifyInstance } from "fastify";
import type { Metrics } from "../../observability/metrics.ts";
import type { ClientLimits } from "../app-parts.ts";
import { endWithProblem } from "./limits.ts";

/** Slowest average rate of a body, in bytes per second; checked once the time limit without a byte has passed. */
const LEAST_RATE = 4096;

/** A body being read. Byte counts are its connection's. */
interface Watched {
  readonly socket: Socket;
  readonly since: number;
  readonly from: number;
  readonly onStall: () => void;
  bytes: number;
  /** When the last bytes were seen. */
  at: number;
}

/** Detects bodies that have stalled or drip. Checking all of them at intervals is cheaper than a timer for each. */
export class BodyWatch {
  readonly #stallMs: number;
  readonly #onStall: () => void;
  readonly #bodies = new Map<IncomingMessage, Watched>();
  readonly #timer: NodeJS.Timeout;

  /**
   * @param stallMs time without a byte after which a body has stalled
   * @param onStall called for each stalled body
   */
  constructor(stallMs: number, onStall: () => void) {
    this.#stallMs = stallMs;
    this.#onStall = onStall;
    this.#timer = setInterval(() => this.#look(), Math.min(1_000, stallMs / 4)).unref();
  }

  /** Call only once the body is being read: while it waits, it does not arrive either. Calls `onStall` at most once. */
  start(request: IncomingMessage, onStall: () => void): void {
    const now = performance.now();
    const { socket } = request;
    this.#bodies.set(request, {
      socket,
      since: now,
      from: socket.bytesRead,
      onStall,
      bytes: socket.bytesRead,
      at: now,
    });
    request.once("close", () => this.stop(request));
  }

  stop(request: IncomingMessage): void {
    this.#bodies.delete(request);
  }

  /** Bytes of a body received since `start`. */
  bytesOf(request: IncomingMessage): number {
    const body = this.#bodies.get(request);
    return body === undefined ? Infinity : body.socket.bytesRead - body.from;
  }

  close(): void {
    clearInterval(this.#timer);
  }

  #look(): void {
    const now = performance.now();
    for (const [request, body] of this.#bodies) {
      if (request.complete) this.stop(request);
      else if (this.#hasStalled(body, now)) {
        this.stop(request);
        this.#onStall();
        body.onStall();
      }
    }
  }

  #hasStalled(body: Watched, now: number): boolean {
    const { bytesRead } = body.socket;
    if (bytesRead !== body.bytes) Object.assign(body, { bytes: bytesRead, at: now });
    const seconds = (now - body.since) / 1000;
    return (
      now - body.at >= this.#stallMs ||
      (now - body.since >= this.#stallMs && bytesRead - body.from < LEAST_RATE * seconds)
    );
  }
}

/**
 * Aborts stalled JSON bodies along with their connection. Uploads are watched by their reader, once it is their turn.
 */
export function watchBodies(app: FastifyInstance, { receiveMs }: ClientLimits, metrics: Metrics): BodyWatch {
  const bodies = new BodyWatch(receiveMs, () => metrics.connectionCut("not_sending"));
  app.addHook("onClose", async () => bodies.close());
  app.addHook("preParsing", (request, _reply, payload, done) => {
    const { raw } = request;
    const isUpload = request.headers["content-type"]?.startsWith("multipart/") === true;
    if (!raw.complete && !isUpload) {
      bodies.start(raw, () => {
        request.audit.code = "request_timeout";
        endWithProblem(raw.socket, "request_timeout");
      });
    }
    done(null, payload);
  });
  return bodies;
}
