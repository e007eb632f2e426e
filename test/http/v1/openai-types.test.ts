/**
 * OpenAI's API, as the types of its client describe it, beside ours. The compiler holds the lists below: what we lack of
 * it, or have in another way, must be named here with its reason, and nothing else may be. Lists of files and jobs are
 * not among the routes that are compared.
 */
import type OpenAI from "openai";
import t from "tap";
import type { ChatBody, ChatChunk, ChatResponse } from "../../../src/http/v1/chat-schema.ts";
import type {
  CompletionsBody,
  CompletionsChunk,
  CompletionsResponse,
} from "../../../src/http/v1/completions-schema.ts";
import type { DeletedModel, ModelCard } from "../../../src/http/v1/models-schema.ts";
import { buildTestApp, post } from "../../support/app.ts";

/** Names, each with the reason why it is there. */
type Reasons<Names extends PropertyKey> = Readonly<Record<Names, string>>;
/** Fields of requests that we do not have. */
type Missing<Theirs, Ours> = Exclude<keyof Theirs, keyof Ours>;
/** Fields of requests of which we do not take every value. */
type Narrower<Theirs, Ours> = {
  [K in keyof Theirs & keyof Ours]-?: NonNullable<Theirs[K]> extends Ours[K] ? never : K;
}[keyof Theirs & keyof Ours];
/** Fields of answers that clients rely on, and which we lack or have with another type. */
type Unlike<Theirs, Ours> = {
  [K in keyof Theirs]-?: K extends keyof Ours
    ? Ours[K] extends Theirs[K]
      ? never
      : K
    : undefined extends Theirs[K]
      ? never
      : K;
}[keyof Theirs];
type Choice<T extends { choices: unknown[] }> = T["choices"][number];

const TOOLS = "GPT-2 has not learnt to call tools";
const TEXT = "GPT-2 reads and writes text alone";
const HOSTED = "about OpenAI's own service";

const missing: Reasons<Missing<OpenAI.ChatCompletionCreateParamsNonStreaming, ChatBody>> = {
  tools: TOOLS,
  tool_choice: TOOLS,
  parallel_tool_calls: TOOLS,
  functions: TOOLS,
  function_call: TOOLS,
  audio: TEXT,
  modalities: TEXT,
  prediction: "answers are the same without",
  reasoning_effort: "GPT-2 does not reason",
  verbosity: "GPT-2 knows no such wish",
  web_search_options: "nothing is searched",
  moderation: HOSTED,
  prompt_cache_key: HOSTED,
  prompt_cache_options: HOSTED,
  prompt_cache_retention: HOSTED,
  safety_identifier: HOSTED,
  service_tier: HOSTED,
};
t.test("what OpenAI's chats have and ours do not is refused by name", async (t) => {
  const { fastify } = await buildTestApp(t);
  for (const name of Object.keys(missing)) {
    const body = { model: "demo", messages: [{ role: "user", content: "a" }], [name]: [] };
    const { error } = (await fastify.inject(post("/v1/chat/completions", body))).json<{
      error: { code: string; param: string };
    }>();
    t.match(error, { code: /^(unknown_field|unsupported_parameter)$/, param: name });
  }
});

({}) satisfies Reasons<Missing<OpenAI.CompletionCreateParamsNonStreaming, CompletionsBody>>;
({}) satisfies Reasons<Narrower<OpenAI.CompletionCreateParamsNonStreaming, CompletionsBody>>;
({
  messages: "texts alone, of system, user and assistant",
  response_format: "a schema is an object or a boolean, not anything",
}) satisfies Reasons<Narrower<OpenAI.ChatCompletionCreateParamsNonStreaming, ChatBody>>;

({ choices: "see below" }) satisfies Reasons<Unlike<OpenAI.Completion, CompletionsResponse>>;
({
  choices: "see below",
  usage: "null until the last chunk, as their server answers",
}) satisfies Reasons<Unlike<OpenAI.Completion, CompletionsChunk>>;
({ logprobs: "null for the first token of an echoed prompt" }) satisfies Reasons<
  Unlike<Choice<OpenAI.Completion>, Choice<CompletionsResponse>>
>;
({
  logprobs: "null for the first token of an echoed prompt",
  finish_reason: "null until the end, as their server answers",
}) satisfies Reasons<Unlike<Choice<OpenAI.Completion>, Choice<CompletionsChunk>>>;
({}) satisfies Reasons<Unlike<OpenAI.ChatCompletion, ChatResponse>>;
({}) satisfies Reasons<Unlike<OpenAI.ChatCompletionChunk, ChatChunk>>;
({}) satisfies Reasons<Unlike<OpenAI.Model, ModelCard>>;
({}) satisfies Reasons<Unlike<OpenAI.ModelDeleted, DeletedModel>>;
