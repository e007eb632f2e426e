import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { whenOver } from "./response-end.ts";

/** Where bytes may be on their way to clients; see HttpWorkers. */
interface OnTheWay {
  /** Resolves when what has been written so far cannot get further by itself. */
  settled(): Promise<void>;
}

/** Answers that their clients have not got all of yet. */
export class OpenAnswers {
  readonly #open = new Map<FastifyReply, FastifyRequest>();
  readonly #onTheWay: OnTheWay | null;

  constructor(onTheWay: OnTheWay | null = null) {
    this.#onTheWay = onTheWay;
  }

  watch(app: FastifyInstance): void {
    app.addHook("onRequest", (request, reply, done) => {
      this.#open.set(reply, request);
      whenOver(reply, () => this.#open.delete(reply));
      done();
    });
  }

  /** Resolves when everything written so far is with the system, or waits for a client that does not read. */
  async settled(): Promise<void> {
    await this.#onTheWay?.settled();
  }

  /**
   * Nothing of a user leaves the server after this: cuts connections whose client has not read all of what it was sent.
   * Call when the user's requests have been ended.
   */
  async endOfUser(user: string): Promise<void> {
    await this.settled();
    for (const [reply, { audit }] of this.#open)
      if (audit.user === user && reply.raw.writableLength > 0) reply.raw.destroy();
    await this.settled();
  }
}
