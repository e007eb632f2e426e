import type { FastifyReply, FastifyRequest } from "fastify";
import { GENERATE_CODES } from "../../errors.ts";
import type { AppLimits, AppParts, TypedApp } from "../app-parts.ts";
import { PrefixIdParams, problems, type ResponseDocument } from "../common-schema.ts";
import { parseGenerate, prefixOf } from "./parse.ts";
import type { PromptReader } from "./prompts.ts";
import {
  GENERATE_RESPONSE_EXAMPLE,
  GENERATE_STREAM_EXAMPLES,
  GenerateResponse,
  GenerateStream,
} from "./answer-schema.ts";
import { GenerateBody } from "./schema.ts";
import type { GenerateServer } from "./serve.ts";
import { bytesOfToken, GenerateShape } from "./shape.ts";

const RESPONSE: Readonly<Record<string, ResponseDocument>> = {
  200: {
    description:
      "The choices. With `stream`, server-sent events: one per step, a last one with usage, then `[DONE]`; a choice's text is the concatenation of its parts.",
    content: {
      "application/json": { schema: GenerateResponse, example: GENERATE_RESPONSE_EXAMPLE },
      "text/event-stream": {
        schema: GenerateStream,
        examples: GENERATE_STREAM_EXAMPLES,
      },
    },
  },
};

/** Most rows per prompt: beams, or choices including those that best_of drops. */
export const mostRows = ({ maxN, slots }: Pick<AppLimits, "maxN" | "slots">): number => Math.min(maxN, slots);

export function generateRoutes(app: TypedApp, parts: AppParts, reader: PromptReader, server: GenerateServer): void {
  const maxN = mostRows(parts.limits);

  const handle = async (
    request: FastifyRequest,
    reply: FastifyReply,
    body: GenerateBody,
    pathId: string | undefined,
  ): Promise<unknown> => {
    const { user } = request.principal;
    const prefix = prefixOf(body, pathId, user);
    const parsed = await parseGenerate(body, { user, prefix, reader, maxN, defaults: parts.model.defaults });
    const shape = new GenerateShape(parsed.request, parsed.response, parts.modelName, (id) =>
      parts.tokenizer.tokenText(id),
    );
    return server.serve(request, reply, { ...parsed, shape, bytesOfToken });
  };

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
        response: { ...RESPONSE, ...problems(...GENERATE_CODES) },
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
        response: { ...RESPONSE, ...problems(...GENERATE_CODES.filter((code) => code !== "base_model_disabled")) },
      },
    },
    (request, reply) => handle(request, reply, request.body, request.params.id),
  );
}
