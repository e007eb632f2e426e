import type { FastifyReply, FastifyRequest } from "fastify";
import { lostTouch, type ErrorCode, type PrefixdError } from "../../errors.ts";
import { RequestAborted, type GenerationListener, type ValidGenerateRequest } from "../../generation/service.ts";
import { AnswerLimit } from "./answer-limit.ts";
import type { AppParts, TypedApp } from "../app-parts.ts";
import { EventQueue } from "./event-queue.ts";
import { parseGenerate } from "./parse.ts";
import { ResponseWriter, auditUsage } from "./response.ts";
import { answerOf } from "./long-answer.ts";
import { prefixIdOf } from "../prefixes/id.ts";
import { logFailure, toPrefixdError } from "../problem.ts";
import { PromptReader } from "./prompts.ts";
import { abortOnDisconnect } from "../access-log.ts";
import { PrefixIdParams, problems } from "../common-schema.ts";
import { GENERATE_RESPONSE_EXAMPLE, GENERATE_STREAM_EXAMPLE, GenerateBody, GenerateResponse } from "./schema.ts";
import { SseStream } from "../sse.ts";

const CODES: ErrorCode[] = [
  "unauthorized",
  "unknown_field",
  "unsupported_parameter",
  "invalid_parameter",
  "empty_prompt",
  "invalid_token_id",
  "invalid_prefix_id",
  "context_exceeded",
  "answer_too_large",
  "body_too_large",
  "unsupported_media_type",
  "prefix_not_found",
  "prefix_base_mismatch",
  "prefix_damaged",
  "prefix_overflows",
  "queue_full",
  "user_queue_full",
  "queue_timeout",
  "token_rate_exceeded",
  "store_unavailable",
  "removed",
  "model_failed",
  "device_lost",
];

const RESPONSE = {
  200: {
    description:
      "The choices. With `stream`, server-sent events: one per step, a last one with usage, then `[DONE]`; a choice's text is the concatenation of its parts.",
    content: {
      "application/json": { schema: GenerateResponse, example: GENERATE_RESPONSE_EXAMPLE },
      "text/event-stream": {
        schema: {
          type: "string",
          description: "`data:` holds a GenerateEvent or, last, a GenerateLastEvent; `event: error` holds a Problem.",
        },
        example: GENERATE_STREAM_EXAMPLE,
      },
    },
  },
};

export function generateRoutes(app: TypedApp, parts: AppParts): void {
  const reader = new PromptReader(parts.tokenizer, parts.shape.positions);
  const maxN = Math.min(parts.limits.maxN, parts.limits.slots);
  const answerLimit = new AnswerLimit(parts.limits.answer, parts.tokenizer, parts.shape.positions);
  const checkLease = (): void => {
    if (parts.stream.mayEmit?.() === false) throw lostTouch();
  };

  const handle = async (
    request: FastifyRequest,
    reply: FastifyReply,
    body: GenerateBody,
    pathId: string | undefined,
  ): Promise<unknown> => {
    const { request: valid, response } = await parseGenerate(
      body,
      pathId,
      request.principal.user,
      reader,
      maxN,
      parts.model.defaults,
    );
    if (valid.prefix) request.audit.prefix_id = prefixIdOf(valid.prefix, valid.user);
    answerLimit.check(valid, response);
    request.admitted = true;
    const writer = new ResponseWriter(valid, response, parts.modelName, (id) => parts.tokenizer.tokenText(id));
    return response.stream ? stream(request, reply, valid, writer) : answer(request, reply, valid, writer);
  };

  const answer = async (
    request: FastifyRequest,
    reply: FastifyReply,
    valid: ValidGenerateRequest,
    writer: ResponseWriter,
  ): Promise<unknown> => {
    try {
      const generated = await parts.generation.collect(valid, abortOnDisconnect(reply).signal);
      checkLease();
      auditUsage(request.audit, generated.end);
      return reply.type("application/json; charset=utf-8").send(answerOf(writer.whole(generated), checkLease));
    } catch (error) {
      if (!(error instanceof RequestAborted)) throw error;
      reply.hijack();
      return undefined;
    }
  };

  /** Resolves when the stream has ended; rejects only while an ordinary error response is still possible. */
  const stream = (
    request: FastifyRequest,
    reply: FastifyReply,
    valid: ValidGenerateRequest,
    writer: ResponseWriter,
  ): Promise<void> =>
    new Promise((resolve, reject) => {
      const controller = abortOnDisconnect(reply);
      const sse = new SseStream(reply, parts.stream, () => {
        request.audit.code = "too_slow";
        parts.metrics.connectionCut("not_reading");
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
          const event = end === null ? writer.event(deltas) : null;
          if (event) sse.event(event);
          if (end === null) return;
          sse.last(writer.lastEvent(deltas, end));
          resolve();
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
      parts.generation.start(valid, listener, controller.signal).catch((error: Error) => {
        if (sse.opened && !(error instanceof RequestAborted)) listener.onError(toPrefixdError(error));
        else fail(error);
      });
    });

  // Runs after the hook that requires a key.
  const onRequest = async ({ principal }: FastifyRequest): Promise<void> =>
    parts.generation.refuseIfFull(principal.user);

  app.post(
    "/generate",
    {
      onRequest,
      config: { access: "user", generates: true },
      schema: {
        operationId: "generate",
        tags: ["generate"],
        summary: "Generate text",
        description: "Generates with the prefix `prefix_id`, or with the bare base model when it is absent.",
        body: GenerateBody,
        response: { ...RESPONSE, ...problems(...CODES, "base_model_disabled") },
      },
    },
    (request, reply) => handle(request, reply, request.body, undefined),
  );

  app.post(
    "/prefixes/:id/generate",
    {
      onRequest,
      config: { access: "user", generates: true },
      schema: {
        operationId: "generateWithPrefix",
        tags: ["generate"],
        summary: "Generate text with the prefix in the path",
        description:
          "Same as `POST /generate`, at an address that a load balancer can hash on. `prefix_id` in the body must be absent or the same.",
        params: PrefixIdParams,
        body: GenerateBody,
        response: { ...RESPONSE, ...problems(...CODES) },
      },
    },
    (request, reply) => handle(request, reply, request.body, request.params.id),
  );
}
