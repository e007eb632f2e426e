import type { FastifyReply, FastifyRequest } from "fastify";
import { PrefixdError, type ErrorCode } from "../../errors.ts";
import { seenByStops } from "../../text/stop-strings.ts";
import { abortOnDisconnect } from "../connections/response-end.ts";
import type { AppParts, TypedApp } from "../app-parts.ts";
import { json, problems } from "../common-schema.ts";
import type { PromptReader } from "../generate/prompts.ts";
import { TransferGate, type GateLimits } from "../prefixes/transfer-gate.ts";
import {
  DetokenizeBody,
  DetokenizeResponse,
  MOST_TOKENS,
  TokenizeBody,
  TokenizeResponse,
  TokenizerInfo,
} from "./schema.ts";

/**
 * Tokens are free of charge, so a user has one text at a time in work, and everybody together two: the event loop is
 * theirs for steps of some 20 ms, in turn with everything else.
 */
const TEXTS: GateLimits = {
  running: 2,
  runningOfUser: 1,
  waiting: 256,
  waitingOfUser: 16,
  waitMs: 30_000,
  graceMs: Infinity,
  leastRate: Infinity,
};

const CODES: ErrorCode[] = [
  "unauthorized",
  "unknown_field",
  "invalid_parameter",
  "invalid_token_id",
  "body_too_large",
  "unsupported_media_type",
];

/** Special tokens that `/tokenizer_info` names. */
const NAMED: ReadonlySet<string> = new Set(["eos_token", "bos_token", "unk_token", "pad_token"]);

/** Text to token ids and back, with the model's tokenizer. */
export function tokenRoutes(app: TypedApp, { tokenizer, shape, chat }: AppParts, reader: PromptReader): void {
  const gate = new TransferGate(TEXTS, busy);
  const tags = ["generate"];
  const config = { access: "user" } as const;
  const inTurn = <T>(request: FastifyRequest, reply: FastifyReply, task: () => Promise<T>): Promise<T> =>
    gate.run(request.principal.user, abortOnDisconnect(reply).signal, task);

  app.post(
    "/tokenize",
    {
      config,
      schema: {
        operationId: "tokenize",
        tags,
        summary: "The token ids of a text",
        description: "As vLLM has it. Costs nothing; one text of a user is in work at a time.",
        body: TokenizeBody,
        response: {
          200: json("Its tokens", TokenizeResponse, {
            example: { count: 2, count_without_special_tokens: 2, max_model_len: 1024, tokens: [464, 3290] },
          }),
          ...problems(...CODES, "queue_full"),
        },
      },
    },
    (request, reply) =>
      inTurn(request, reply, async () => {
        const { prompt, add_special_tokens: special = true, return_token_strs: strings = false } = request.body;
        checkSize("prompt", Buffer.byteLength(prompt), "bytes");
        const tokens = [...(await reader.tokenize(prompt, "prompt", special))];
        return {
          count: tokens.length,
          count_without_special_tokens: tokens.filter((id) => !tokenizer.isSpecial(id)).length,
          max_model_len: shape.positions,
          tokens,
          ...(strings ? { token_strs: tokens.map((id) => tokenizer.tokenText(id)) } : {}),
        };
      }),
  );

  app.post(
    "/detokenize",
    {
      config,
      schema: {
        operationId: "detokenize",
        tags,
        summary: "The text of token ids",
        description: "As vLLM has it. Special tokens have no text.",
        body: DetokenizeBody,
        response: {
          200: json("Their text", DetokenizeResponse, { example: { prompt: "The dog" } }),
          ...problems(...CODES),
        },
      },
    },
    async (request) => {
      const { tokens, skip_special_tokens: skip = false } = request.body;
      checkSize("tokens", tokens.length, "ids");
      const ids = reader.checked(tokens, "tokens");
      return { prompt: skip ? tokenizer.decode(ids) : withNames(ids) };
    },
  );

  const info = {
    tokenizer_class: "GPT2Tokenizer",
    model_max_length: shape.positions,
    eos_token: null,
    ...Object.fromEntries([...tokenizer.named].filter(([name]) => NAMED.has(name))),
    ...(chat === null ? {} : { chat_template: chat.source }),
  };
  app.get(
    "/tokenizer_info",
    {
      config,
      schema: {
        operationId: "getTokenizerInfo",
        tags,
        summary: "What the tokenizer's special tokens are",
        description: "As vLLM has it: what a client needs to use `POST /tokenize` for its own tokenizer.",
        response: {
          200: json("Part of a `tokenizer_config.json`", TokenizerInfo, {
            example: { tokenizer_class: "GPT2Tokenizer", model_max_length: 1024, eos_token: "<|endoftext|>" },
          }),
          ...problems("unauthorized"),
        },
      },
    },
    () => info,
  );

  const withNames = (ids: readonly number[]): string =>
    new TextDecoder("utf-8", { ignoreBOM: true }).decode(Buffer.concat(ids.map((id) => seenByStops(tokenizer, id))));
}

function checkSize(field: string, size: number, unit: string): void {
  if (size > MOST_TOKENS)
    throw new PrefixdError("invalid_parameter", `${field} has ${size} ${unit}; this route accepts ${MOST_TOKENS}.`, {
      field,
    });
}

function busy(): PrefixdError {
  const limit = { name: "queue", quota: TEXTS.waiting, remaining: 0, resetSeconds: 1 } as const;
  const detail = `Texts to be tokenized may wait: ${TEXTS.waitingOfUser} of a user, ${TEXTS.waiting} of all. This one would be one more.`;
  return new PrefixdError("queue_full", detail, { retryAfter: 1, limit });
}
