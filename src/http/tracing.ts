/** Requests as spans: one for a request, and children for the phases of what it generates. */
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { ERRORS } from "../errors.ts";
import type { EndedRequest, ValidGenerateRequest } from "../generation/types.ts";
import { choicesPerPrompt } from "../generation/choices.ts";
import {
  endAttributes,
  httpAttributes,
  requestAttributes,
  usageAttributes,
} from "../observability/tracing/conventions.ts";
import type { RequestSpan, Tracing } from "../observability/tracing/trace.ts";
import { isAnswered } from "./access-log.ts";
import { whenOver } from "./connections/response-end.ts";

declare module "fastify" {
  interface FastifyRequest {
    /** null: this request is not traced. */
    span: RequestSpan | null;
  }
}

/** Asked by machines all the time, or by people about the server itself. */
const UNTRACED = /^\/(health\/|metrics$|admin\/live$|docs|console|openapi\.|$)/;

/** Call before every other hook, so that spans begin with their requests. null: nothing is traced. */
export function traceRequests(app: FastifyInstance, tracing: Tracing | null): void {
  app.decorateRequest("span", null);
  if (tracing === null) return;
  app.addHook("onRequest", (request, reply, done) => {
    const route = request.routeOptions.url;
    if (!request.is404 && route !== undefined && !UNTRACED.test(route)) begin(tracing, request, reply, route);
    done();
  });
}

function begin(tracing: Tracing, request: FastifyRequest, reply: FastifyReply, route: string): void {
  const { method, headers } = request;
  const span = tracing.begin(`${method} ${route}`, headers, httpAttributes(method, route));
  request.span = span;
  request.log = reply.log = request.log.child({ trace_id: span.traceId, span_id: span.spanId });
  whenOver(reply, () => {
    const at = performance.now();
    // Whatever else happens at the end of the response comes first: of a client that left, the end of what it asked for.
    queueMicrotask(() => end(span, request, reply, at));
  });
}

function end(span: RequestSpan, request: FastifyRequest, reply: FastifyReply, at: number): void {
  const { code } = request.audit;
  const outcome = code ?? (isAnswered(request, reply) ? "ok" : "cancelled");
  const status = reply.raw.headersSent ? reply.raw.statusCode : null;
  span.set(endAttributes(status, outcome, request.id));
  const blamed = (status ?? 0) >= 500 || (code !== undefined && Object.hasOwn(ERRORS, code) && isOurs(code));
  span.end(at, blamed ? outcome : null);
}

const isOurs = (code: string): boolean => ERRORS[code as keyof typeof ERRORS].status >= 500;

/** The same request, which tells its span what it asks for now, and its phases once it has ended. */
export function traced(
  { span, routeOptions }: FastifyRequest,
  valid: ValidGenerateRequest,
  { model, stream }: { readonly model: string; readonly stream: boolean },
): ValidGenerateRequest {
  if (span === null || !span.recording) return valid;
  const { sampling } = valid;
  span.set(
    requestAttributes({
      operation: routeOptions.url === "/v1/chat/completions" ? "chat" : "text_completion",
      model,
      stream,
      prefixed: valid.prefix !== null,
      prompts: valid.prompts.length,
      choices: choicesPerPrompt(valid),
      beams: valid.beams?.numBeams ?? null,
      maxTokens: valid.maxNewTokens,
      seed: valid.seed,
      sampling: sampling.doSample ? sampling : null,
      frequencyPenalty: sampling.frequencyPenalty,
      presencePenalty: sampling.presencePenalty,
      structured: valid.constraint !== null,
    }),
  );
  return { ...valid, onEnd: (ended) => tellPhases(span, ended) };
}

/** The phase in which it ended fails with it. */
function tellPhases(span: RequestSpan, { outcome, usage, phases, finishReasons }: EndedRequest): void {
  span.set(usageAttributes(usage, finishReasons));
  const { submittedAt, startedAt, firstTokenAt, endedAt } = phases;
  const failed = Object.hasOwn(ERRORS, outcome) && isOurs(outcome);
  span.child("queue", submittedAt, startedAt ?? endedAt, failed && startedAt === null);
  if (startedAt === null) return;
  span.child("prefill", startedAt, firstTokenAt ?? endedAt, failed && firstTokenAt === null);
  if (firstTokenAt !== null) span.child("decode", firstTokenAt, endedAt, failed);
}
