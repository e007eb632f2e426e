import { setTimeout as sleep } from "node:timers/promises";
import type { FastifyReply, FastifyRequest } from "fastify";
import { PrefixdError, shuttingDown } from "../../errors.ts";
import type { TrainingService } from "../../training/jobs/service.ts";
import { isEnded } from "../../training/jobs/types.ts";
import { refuseRevoked } from "../access.ts";
import type { AppParts, AppState } from "../app-parts.ts";
import { abortOnDisconnect } from "../connections/response-end.ts";
import { logFailure, toPrefixdError } from "../problem.ts";
import { SseStream } from "../sse.ts";
import { eventDocument } from "./fine-tuning-shape.ts";

/** Milliseconds between two looks for new events. */
const PERIOD_MS = 500;
/** Events read at a time. */
const PAGE = 100;
/** Streams at a time, of a user and of all. */
export const MAX_STREAMS = 4;
const MAX_ALL_STREAMS = 64;

/**
 * A job's events as they happen, until it has ended, the client leaves, its key or its user is refused, or a drain refuses
 * requests. A reader that is slow is waited for: nothing is read from the store for it meanwhile.
 */
export class JobEventStreams {
  readonly #options: AppParts["stream"];
  readonly #metrics: AppParts["metrics"];
  readonly #auth: AppParts["auth"];
  readonly #state: Readonly<AppState>;
  /** Users of open streams. */
  readonly #users: string[] = [];

  constructor({ stream, metrics, auth }: Pick<AppParts, "stream" | "metrics" | "auth">, state: Readonly<AppState>) {
    [this.#options, this.#metrics, this.#auth, this.#state] = [stream, metrics, auth, state];
  }

  /**
   * Resolves when the stream is over.
   * @param after the id of the last event that the client has; absent: it has none
   * @throws PrefixdError live_busy, and what finding the job throws, before the stream has begun
   */
  async serve(
    request: FastifyRequest,
    reply: FastifyReply,
    training: TrainingService,
    { job: id, after }: { readonly job: string; readonly after: string | undefined },
  ): Promise<void> {
    const { user } = request.principal;
    const own = this.#users.filter((other) => other === user).length;
    if (own >= MAX_STREAMS || this.#users.length >= MAX_ALL_STREAMS)
      throw new PrefixdError("live_busy", `A user may read ${MAX_STREAMS} streams of events at a time; close one.`, {
        retryAfter: 5,
      });
    this.#users.push(user);
    try {
      await training.job(user, id);
      await this.#stream(request, reply, () => follow(training, user, id, after));
    } finally {
      this.#users.splice(this.#users.indexOf(user), 1);
    }
  }

  async #stream(request: FastifyRequest, reply: FastifyReply, looks: () => AsyncGenerator<string[]>): Promise<void> {
    const left = abortOnDisconnect(reply);
    const mayRead = (): Promise<void> => refuseRevoked(this.#auth, request);
    const stream = new SseStream(reply, this.#options, () => {
      request.audit.code = "too_slow";
      this.#metrics.connectionCut("not_reading");
      left.abort("too slow");
    });
    try {
      for await (const events of looks()) {
        if (left.signal.aborted) return stream.destroy();
        if (this.#state.phase === "refusing") throw shuttingDown(5);
        await mayRead();
        for (const json of events) {
          if (!(await stream.paced(json))) return stream.release();
          await mayRead();
        }
      }
      stream.last();
    } catch (caught) {
      const error = toPrefixdError(caught);
      logFailure(request, error);
      request.audit.code = error.code;
      stream.error(error);
    }
  }
}

/** New events in order, look by look; ends when a look after the job's end has found none. */
async function* follow(
  training: TrainingService,
  user: string,
  id: string,
  after: string | undefined,
): AsyncGenerator<string[]> {
  let last = after;
  for (let wasEnded = false; ; ) {
    const isOver = isEnded(await training.job(user, id));
    const page = { limit: PAGE, order: "asc", ...(last === undefined ? {} : { after: last }) } as const;
    const events = await training.events(user, id, page);
    yield events.map((event) => JSON.stringify(eventDocument(event)));
    last = events.at(-1)?.id ?? last;
    // Its last event comes after its end.
    if (wasEnded && events.length === 0) return;
    wasEnded = isOver;
    if (events.length < PAGE) await sleep(PERIOD_MS);
  }
}
