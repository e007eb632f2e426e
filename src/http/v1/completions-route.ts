import type { FastifyRequest } from "fastify";
import type { AppParts, TypedApp } from "../app-parts.ts";
import { mostRows } from "../generate/route.ts";
import type { PromptReader } from "../generate/prompts.ts";
import type { GenerateServer } from "../generate/serve.ts";
import { OPENAI_DIALECT, parseCompletions } from "./completions-parse.ts";
import {
  COMPLETIONS_EXAMPLE,
  COMPLETIONS_STREAM_EXAMPLES,
  CompletionsBody,
  CompletionsChunk,
  CompletionsResponse,
} from "./completions-schema.ts";
import { bytesOfToken, CompletionsShape } from "./completions-shape.ts";
import { generatedResponses, shapeOptions } from "./generated.ts";
import { namedBy } from "./model-names.ts";

const RESPONSE = generatedResponses(
  { schema: CompletionsResponse, example: COMPLETIONS_EXAMPLE },
  { schema: CompletionsChunk, examples: COMPLETIONS_STREAM_EXAMPLES },
  "CompletionsChunk",
);

/** Completions as OpenAI's clients ask for them, served as `/generate`'s requests are. */
export function completionsRoutes(app: TypedApp, parts: AppParts, reader: PromptReader, server: GenerateServer): void {
  const maxN = mostRows(parts.limits);
  app.post(
    "/v1/completions",
    {
      // Runs after the hook that requires a key.
      onRequest: async ({ principal }: FastifyRequest) => parts.generation.refuseIfFull(principal.user),
      config: { access: "user", generates: true },
      schema: {
        operationId: "createCompletion",
        tags: ["openai"],
        summary: "Generate text, as OpenAI's clients ask for it",
        description: "The same as `POST /generate`, with the fields, defaults, answers and errors of OpenAI's API.",
        body: CompletionsBody,
        response: RESPONSE,
      },
    },
    async (request, reply) => {
      const created = Math.floor(Date.now() / 1000);
      const { body, principal } = request;
      const prefix = await namedBy(body.model, principal.user, parts);
      const parsed = await parseCompletions(body, { user: principal.user, prefix, reader, maxN });
      const shape = new CompletionsShape(shapeOptions(parsed, body, created), parts.tokenizer);
      return server.serve(request, reply, { ...parsed, shape, bytesOfToken, dialect: OPENAI_DIALECT });
    },
  );
}
