/** What completions and chats have in common besides the way they are served. */
import type { TSchema } from "typebox";
import { GENERATE_CODES } from "../../errors.ts";
import type { ResponseDocument } from "../common-schema.ts";
import type { CompletionsShapeOptions } from "./completions-shape.ts";
import { openAiErrors } from "./errors.ts";

/** Responses of a route that generates: the whole answer, or a stream of `chunk`s, which the description calls `chunkName`. */
export const generatedResponses = (
  whole: { readonly schema: TSchema; readonly example: unknown },
  chunk: { readonly schema: TSchema; readonly examples: Record<string, unknown> },
  chunkName: string,
): Readonly<Record<string, ResponseDocument>> => ({
  200: {
    description: `The choices. With \`stream\`, server-sent events with a ${chunkName} each, then \`[DONE]\`; an error is an event with an OpenAiError, and ends the stream.`,
    content: { "application/json": whole, "text/event-stream": chunk },
  },
  ...openAiErrors(...GENERATE_CODES),
});

/** What an answer says of its request. */
export const shapeOptions = (
  { request, response }: { request: { id: string; logprobs: number | null }; response: { returnTokenIds: boolean } },
  body: { model: string; stream_options?: { include_usage?: boolean | null } | null },
  created: number,
): CompletionsShapeOptions => ({
  id: request.id,
  model: body.model,
  created,
  logprobs: request.logprobs,
  returnTokenIds: response.returnTokenIds,
  includeUsage: body.stream_options?.include_usage ?? false,
});
