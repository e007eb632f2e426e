import type { FastifyReply, FastifyRequest } from "fastify";
import { lostTouch, type PrefixdError } from "../../errors.ts";
import { RequestAborted, type GenerationListener, type ValidGenerateRequest } from "../../generation/service.ts";
import { abortOnDisconnect } from "../connections/response-end.ts";
import type { AppParts } from "../app-parts.ts";
import { prefixIdOf } from "../prefixes/id.ts";
import { logFailure, toPrefixdError } from "../problem.ts";
import { SseStream } from "../sse.ts";
import { traced } from "../tracing.ts";
import { AnswerLimit, type BytesOfToken } from "./answer-limit.ts";
import type { Dialect } from "./dialect.ts";
import { EventQueue } from "./event-queue.ts";
import { answerOf } from "./long-answer.ts";
import type { ResponseOptions } from "./parse.ts";
import { ResponseWriter, auditUsage, type AnswerShape } from "./response.ts";

/** A request to serve, and how its API answers. */
export interface Served {
  readonly request: ValidGenerateRequest;
  readonly response: ResponseOptions;
  readonly shape: AnswerShape;
  readonly bytesOfToken: BytesOfToken;
  readonly dialect?: Dialect;
}

/** Serves parsed requests of every API: limits, generation, the answer as JSON or a stream, and what is logged. */
export class GenerateServer {
  readonly #parts: AppParts;
  readonly #answerLimit: AnswerLimit;

  constructor(parts: AppParts) {
    this.#parts = parts;
    this.#answerLimit = new AnswerLimit(parts.limits.answer, parts.tokenizer, parts.shape.positions);
  }

  /**
   * Resolves with the reply's payload, or when the stream has ended. Throws `answer_too_large`, what generation throws.
   */
  serve(
    request: FastifyRequest,
    reply: FastifyReply,
    { request: parsed, response, shape, bytesOfToken, dialect }: Served,
  ): Promise<unknown> {
    const valid = { ...parsed, keyId: request.principal.keyId };
    if (valid.prefix) request.audit.prefix_id = prefixIdOf(valid.prefix, valid.user);
    this.#answerLimit.check(valid, response, bytesOfToken, dialect);
    request.admitted = true;
    const writer = new ResponseWriter(shape);
    const { stream } = response;
    const known = traced(request, valid, { model: this.#parts.modelName, stream });
    return stream ? this.#stream(request, reply, known, writer) : this.#answer(request, reply, known, writer);
  }

  async #answer(
    request: FastifyRequest,
    reply: FastifyReply,
    valid: ValidGenerateRequest,
    writer: ResponseWriter,
  ): Promise<unknown> {
    try {
      const generated = await this.#parts.generation.collect(valid, abortOnDisconnect(reply).signal);
      this.#checkLease();
      auditUsage(request.audit, generated.end);
      return reply
        .type("application/json; charset=utf-8")
        .send(answerOf(writer.whole(generated), () => this.#checkLease()));
    } catch (error) {
      if (!(error instanceof RequestAborted)) throw error;
      reply.hijack();
      return undefined;
    }
  }

  /** Resolves when the stream has ended; rejects only while an ordinary error response is still possible. */
  #stream(
    request: FastifyRequest,
    reply: FastifyReply,
    valid: ValidGenerateRequest,
    writer: ResponseWriter,
  ): Promise<void> {
    const { stream, metrics, generation } = this.#parts;
    return new Promise((resolve, reject) => {
      const controller = abortOnDisconnect(reply);
      const sse = new SseStream(reply, stream, () => {
        request.audit.code = "too_slow";
        metrics.connectionCut("not_reading");
        controller.abort("too_slow");
      });
      const long = new EventQueue(sse, resolve, (error) => listener.onError(toPrefixdError(error)));
      const fail = (error: Error): void => {
        sse.release();
        if (!(error instanceof RequestAborted)) return reject(error);
        sse.destroy();
        resolve();
      };
      const listener: GenerationListener = {
        onStep(deltas, end) {
          if (end !== null) auditUsage(request.audit, end);
          if (!long.isEmpty || !writer.isOneEvent(deltas)) return long.add(writer.events(deltas, end));
          try {
            const event = end === null ? writer.event(deltas) : null;
            if (event) sse.event(event);
            if (end === null) return;
            sse.last(...writer.last(deltas, end));
            resolve();
          } catch (error) {
            listener.onError(toPrefixdError(error));
          }
        },
        onError(error: PrefixdError) {
          if (!sse.opened) return fail(error);
          request.audit.code = error.code;
          logFailure(request, error);
          sse.error(error);
          resolve();
        },
      };
      controller.signal.addEventListener("abort", () => fail(new RequestAborted()), { once: true });
      generation.start(valid, listener, controller.signal).catch((error: Error) => {
        if (sse.opened && !(error instanceof RequestAborted)) listener.onError(toPrefixdError(error));
        else fail(error);
      });
    });
  }

  #checkLease(): void {
    if (this.#parts.stream.mayEmit?.() === false) throw lostTouch();
  }
}
