import type { FastifyRequest } from "fastify";
import { PrefixdError } from "../../errors.ts";
import type { ChatTemplate } from "../../text/chat-template.ts";
import type { AppParts, TypedApp } from "../app-parts.ts";
import type { PromptReader } from "../generate/prompts.ts";
import { mostRows } from "../generate/route.ts";
import type { GenerateServer } from "../generate/serve.ts";
import { chatDialect, parseChat } from "./chat-parse.ts";
import { CHAT_EXAMPLE, CHAT_STREAM_EXAMPLES, ChatBody, ChatChunk, ChatResponse } from "./chat-schema.ts";
import { bytesOfToken, ChatShape } from "./chat-shape.ts";
import { generatedResponses, shapeOptions } from "./generated.ts";
import { namedBy } from "./model-names.ts";

const RESPONSE = generatedResponses(
  { schema: ChatResponse, example: CHAT_EXAMPLE },
  { schema: ChatChunk, examples: CHAT_STREAM_EXAMPLES },
  "ChatCompletionsChunk",
);

/** Chats as OpenAI's clients ask for them: the template makes a prompt, which is served as `/generate`'s are. */
export function chatRoutes(app: TypedApp, parts: AppParts, reader: PromptReader, server: GenerateServer): void {
  const maxN = mostRows(parts.limits);
  const template = (): ChatTemplate => {
    if (parts.chat !== null) return parts.chat;
    throw new PrefixdError(
      "unsupported_parameter",
      "The model has no chat template, so there is no chat: send a prompt to /v1/completions, or start the server with --chat-template FILE.",
      { field: "messages" },
    );
  };
  app.post(
    "/v1/chat/completions",
    {
      // Runs after the hook that requires a key.
      onRequest: async ({ principal }: FastifyRequest) => parts.generation.refuseIfFull(principal.user),
      // Whatever the body is.
      preValidation: async () => void template(),
      config: { access: "user", generates: true },
      schema: {
        operationId: "createChatCompletion",
        tags: ["openai"],
        summary: "Generate a message of a chat, as OpenAI's clients ask for it",
        description:
          "Where the model has a chat template, or the server was given one; otherwise every request is refused. The same as `POST /v1/completions` with the prompt that the template makes.",
        body: ChatBody,
        response: RESPONSE,
      },
    },
    async (request, reply) => {
      const created = Math.floor(Date.now() / 1000);
      const { body, principal } = request;
      const { user } = principal;
      const prefix = await namedBy(body.model, user, parts);
      const parsed = await parseChat(body, {
        user,
        prefix,
        reader,
        maxN,
        positions: parts.shape.positions,
        template: template(),
      });
      const shape = new ChatShape(shapeOptions(parsed, body, created), parts.tokenizer);
      return server.serve(request, reply, { ...parsed, shape, bytesOfToken, dialect: chatDialect(body) });
    },
  );
}
