import type { IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import type { FastifyInstance } from "fastify";
import type { Metrics } from "../../observability/metrics.ts";
import type { ClientLimits } from "../app-parts.ts";
import { endWithProblem } from "./limits.ts";

/** A body may on average arrive no slower than this, bytes per second; asked once the time without a byte is over. */
const LEAST_RATE = 4096;

/** A body that is being read. Bytes are those of its connection. */
interface Watched {
  readonly socket: Socket;
  readonly since: number;
  readonly from: number;
  readonly onStall: () => void;
  bytes: number;
  /** When the last ones were seen. */
  at: number;
}

/** Finds out which bodies have stopped to arrive, or drip. One look at all of them costs less than a timer for each. */
export class BodyWatch {
  readonly #stallMs: number;
  readonly #onStall: () => void;
  readonly #bodies = new Map<IncomingMessage, Watched>();
  readonly #timer: NodeJS.Timeout;

  /** `stallMs`: a body of which nothing comes for so long has stalled. `onStall` hears of each one. */
  constructor(stallMs: number, onStall: () => void) {
    this.#stallMs = stallMs;
    this.#onStall = onStall;
    this.#timer = setInterval(() => this.#look(), Math.min(1_000, stallMs / 4)).unref();
  }

  /** Only while the body is being read: one that waits to be read does not arrive either. `onStall` is called once at most. */
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

  /** Bytes of a body since it was begun with. */
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

/** JSON that stops arriving is given up with its connection. Uploads are watched by who reads them, when their turn has come. */
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
