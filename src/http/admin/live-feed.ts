import type { FastifyReply, FastifyRequest } from "fastify";
import { PrefixdError } from "../../errors.ts";
import { refuseRevoked } from "../access.ts";
import { abortOnDisconnect } from "../connections/response-end.ts";
import type { AppParts, AppState } from "../app-parts.ts";
import { logFailure, toPrefixdError } from "../problem.ts";
import { SseStream } from "../sse.ts";
import type { LiveEvent } from "./live-schema.ts";

/** Milliseconds between two events. */
const PERIOD_MS = 250;
export const MAX_READERS = 16;
/** Users listed in an event. */
const MAX_USERS = 100;

interface Reader {
  readonly stream: SseStream;
  /** Throws `unauthorized` once its key is withdrawn. */
  readonly mayRead: () => Promise<void>;
  /** Ends its stream with an error. */
  readonly fail: (error: PrefixdError) => void;
}

export type LiveParts = Pick<AppParts, "snapshot" | "metrics" | "limits" | "stream" | "auth">;

/**
 * What the server does now, as events for whoever reads. Asks for it four times a second, once for all readers, and not
 * at all while there are none. A reader that is slow misses events, and gets the latest one when it has read the last.
 * A stream ends when its key is withdrawn, and all do when a drain refuses requests.
 */
export class LiveFeed {
  readonly #parts: LiveParts;
  readonly #state: Readonly<AppState>;
  readonly #readers = new Set<Reader>();
  #ticking = false;

  constructor(parts: LiveParts, state: Readonly<AppState>) {
    this.#parts = parts;
    this.#state = state;
  }

  /** Throws `live_busy`. */
  refuseIfFull(): void {
    if (this.#readers.size >= MAX_READERS)
      throw new PrefixdError("live_busy", `${MAX_READERS} others read the live feed; close one.`, { retryAfter: 5 });
  }

  /** Resolves when the stream is over. */
  async serve(request: FastifyRequest, reply: FastifyReply): Promise<void> {
    const { metrics, stream: options, auth } = this.#parts;
    await new Promise<void>((resolve) => {
      // No `mayEmit`: a replica without its lease shows what it does all the same.
      const stream = new SseStream(reply, { ...options, mayEmit: () => true }, () => {
        request.audit.code = "too_slow";
        metrics.connectionCut("not_reading");
      });
      const over = (): void => {
        stream.release();
        this.#readers.delete(reader);
        resolve();
      };
      const fail = (error: PrefixdError): void => {
        logFailure(request, error);
        request.audit.code = error.code;
        stream.error(error);
        over();
      };
      const mayRead = (): Promise<void> => refuseRevoked(auth, request);
      const reader = { stream, mayRead, fail };
      this.#readers.add(reader);
      abortOnDisconnect(reply).signal.addEventListener("abort", () => {
        stream.destroy();
        over();
      });
      if (!this.#ticking) void this.#tick();
    });
  }

  async #tick(): Promise<void> {
    this.#ticking = true;
    try {
      const json = JSON.stringify(await this.#event());
      if (this.#state.phase === "refusing")
        throw new PrefixdError("draining", "The server is shutting down.", { retryAfter: 5 });
      for (const reader of this.#readers)
        await reader.mayRead().then(
          () => void (reader.stream.waiting || reader.stream.event(json)),
          (error: unknown) => reader.fail(toPrefixdError(error)),
        );
    } catch (error) {
      for (const reader of this.#readers) reader.fail(toPrefixdError(error));
    }
    const next = (): void => {
      if (this.#readers.size > 0) void this.#tick();
      else this.#ticking = false;
    };
    setTimeout(next, PERIOD_MS).unref();
  }

  async #event(): Promise<LiveEvent> {
    const { snapshot, metrics, limits } = this.#parts;
    const { rows, tenants } = snapshot();
    const { steps, firstToken, prefixCache, requests } = await metrics.totals();
    const listed = [...tenants].sort((a, b) => b.waiting - a.waiting || b.rows - a.rows).slice(0, MAX_USERS);
    return {
      at: new Date().toISOString(),
      state: this.#state.phase === "serving" ? "serving" : "draining",
      slots: limits.slots,
      max_queue: limits.queue,
      rows: rows.map(({ tenant, prefixId, phase, tokens, of, ageMs }) => ({
        user: tenant,
        prefix: prefixId,
        phase,
        tokens,
        of,
        age_ms: Math.round(ageMs),
      })),
      users: listed.map(({ tenant, weight, rows, waiting, oldestMs }) => ({
        user: tenant,
        weight,
        rows,
        waiting,
        oldest_ms: oldestMs && Math.round(oldestMs),
      })),
      more_users: tenants.length - listed.length,
      waiting: tenants.reduce((sum, { waiting }) => sum + waiting, 0),
      totals: { steps, first_token: firstToken, prefix_cache: prefixCache, requests },
    };
  }
}
