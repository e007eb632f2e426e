import Type, { type Static } from "typebox";
import { named, strict } from "../common-schema.ts";
import { MAX_LOGPROBS } from "../generate/schema.ts";
import { CompletionsBody, FinishReason, Usage } from "./completions-schema.ts";

const { Optional } = Type;
const { properties: field } = CompletionsBody;

export const MAX_MESSAGES = 256;
const MAX_PARTS = 64;

const TextPart = strict({ type: Type.Literal("text"), text: Type.String() });
/** As clients send back the messages of answers. */
const onlyNull = Optional(Type.Null({ description: "Only null" }));

const Message = strict({
  role: Type.Enum(["system", "developer", "user", "assistant"], { description: "developer is the same as system" }),
  content: Type.Union([Type.String(), Type.Array(TextPart, { maxItems: MAX_PARTS })], {
    description: "A text, or a list of texts, which are joined by line ends",
  }),
  name: Optional(Type.String({ description: "For templates that show it" })),
  refusal: onlyNull,
  annotations: onlyNull,
  audio: onlyNull,
  function_call: onlyNull,
  tool_calls: onlyNull,
});

const ResponseFormat = strict(
  {
    type: Type.Enum(["text", "json_object", "json_schema"]),
    json_schema: Optional(
      strict({
        name: Type.String({ description: "Ignored, as description and strict are: what can be enforced always is" }),
        description: Optional(Type.String()),
        schema: Optional(Type.Union([Type.Object({}), Type.Boolean()])),
        strict: Optional(Type.Boolean()),
      }),
    ),
  },
  { description: "What `structured_outputs` does, as OpenAI's clients ask for it; only one of both" },
);

export const ChatBody = named(
  "ChatCompletionsRequest",
  strict(
    {
      model: field.model,
      messages: Type.Array(Message, {
        minItems: 1,
        maxItems: MAX_MESSAGES,
        hint: "messages have roles and texts alone: no tools, images or audio",
        description: "The conversation, from which the chat template makes the prompt",
      }),
      max_completion_tokens: Optional(
        Type.Integer({ minimum: 1, description: "New tokens at most. Default: as many as fit" }),
      ),
      max_tokens: Optional(Type.Integer({ minimum: 1, description: "The older name of max_completion_tokens" })),
      temperature: field.temperature,
      top_p: field.top_p,
      n: field.n,
      stream: field.stream,
      stream_options: field.stream_options,
      logprobs: Optional(
        Type.Boolean({ default: false, description: "Report each token's log probability, before any processing" }),
      ),
      top_logprobs: Optional(
        Type.Integer({
          minimum: 0,
          maximum: MAX_LOGPROBS,
          description: "And those of the k likeliest tokens; only with logprobs",
        }),
      ),
      response_format: Optional(ResponseFormat),
      stop: field.stop,
      seed: field.seed,
      presence_penalty: field.presence_penalty,
      frequency_penalty: field.frequency_penalty,
      logit_bias: field.logit_bias,
      user: field.user,
      store: field.store,
      metadata: field.metadata,
      top_k: field.top_k,
      min_p: field.min_p,
      repetition_penalty: field.repetition_penalty,
      min_tokens: field.min_tokens,
      ignore_eos: field.ignore_eos,
      stop_token_ids: field.stop_token_ids,
      bad_words: field.bad_words,
      structured_outputs: field.structured_outputs,
      num_beams: field.num_beams,
      return_token_ids: field.return_token_ids,
    },
    {
      description:
        "OpenAI's chat request, where the model has a chat template. null for an optional field means that it is absent. Unknown fields are refused.",
      examples: [{ model: "intent", messages: [{ role: "user", content: "i want to book a flight" }], temperature: 0 }],
    },
  ),
);
export type ChatBody = Static<typeof ChatBody>;

const Bytes = Type.Union([Type.Array(Type.Integer()), Type.Null()], {
  description: "The token's bytes, which may be a part of a character; null for a special token",
});
const TopToken = strict({ token: Type.String(), logprob: Type.Number(), bytes: Bytes });
const Logprobs = Type.Union(
  [
    strict({
      content: Type.Array(
        strict({
          token: Type.String({
            description: "The token as text; bytes that do not form a whole character appear as U+FFFD",
          }),
          logprob: Type.Number(),
          bytes: Bytes,
          top_logprobs: Type.Array(TopToken),
        }),
      ),
      refusal: Type.Null(),
    }),
    Type.Null(),
  ],
  { description: "Only with logprobs" },
);

const common = {
  id: Type.String(),
  created: Type.Integer({ description: "Unix time in seconds" }),
  model: Type.String({ description: "As in the request" }),
};
const choice = { index: Type.Integer(), logprobs: Logprobs, token_ids: Optional(Type.Array(Type.Integer())) };

export const ChatResponse = named(
  "ChatCompletionsResponse",
  strict({
    ...common,
    object: Type.Literal("chat.completion"),
    choices: Type.Array(
      strict({
        ...choice,
        message: strict({ role: Type.Literal("assistant"), content: Type.String(), refusal: Type.Null() }),
        finish_reason: FinishReason,
      }),
    ),
    usage: Usage,
  }),
);
export type ChatResponse = Static<typeof ChatResponse>;

export const ChatChunk = named(
  "ChatCompletionsChunk",
  strict(
    {
      ...common,
      object: Type.Literal("chat.completion.chunk"),
      choices: Type.Array(
        strict({
          ...choice,
          delta: strict({ role: Optional(Type.Literal("assistant")), content: Type.String() }),
          finish_reason: Type.Union([FinishReason, Type.Null()]),
        }),
      ),
      usage: Optional(
        Type.Union([Usage, Type.Null()], { description: "Only with include_usage; set in the last chunk" }),
      ),
    },
    { description: "One event of a stream; a message's content is the concatenation of its deltas' contents" },
  ),
);
export type ChatChunk = Static<typeof ChatChunk>;

const EXAMPLE = { id: "chatcmpl-8c6a1f0e-5d2b-4f7a-9b3c-1e2d3f4a5b6c", created: 1767225600, model: "intent" };

export const CHAT_EXAMPLE: ChatResponse = {
  ...EXAMPLE,
  object: "chat.completion",
  choices: [
    {
      index: 0,
      message: { role: "assistant", content: " book flight", refusal: null },
      logprobs: null,
      finish_reason: "stop",
    },
  ],
  usage: { prompt_tokens: 18, completion_tokens: 4, total_tokens: 22, prefix_tokens: 10 },
};

const chunk = (delta: object, finish_reason: "stop" | null): object => ({
  ...EXAMPLE,
  object: "chat.completion.chunk",
  choices: [{ index: 0, delta, logprobs: null, finish_reason }],
});
/** Of the data of a stream's events. */
export const CHAT_STREAM_EXAMPLES = {
  begin: { value: chunk({ role: "assistant", content: " book" }, null) },
  end: { value: chunk({ content: "" }, "stop") },
};
