import Type, { type Static } from "typebox";
import { named, strict } from "../common-schema.ts";
import { GenerateBody, MAX_LOGPROBS, MAX_PROMPTS } from "../generate/schema.ts";

const { Optional } = Type;
const { properties: field } = GenerateBody;
const TokenIds = Type.Array(Type.Integer({ minimum: 0 }));

/** `max_tokens` where a request has none. */
export const DEFAULT_MAX_TOKENS = 16;

export const CompletionsBody = named(
  "CompletionsRequest",
  strict(
    {
      model: Type.String({
        description:
          "A prefix: `name` for one's own, `user/name` for one that is shared; or the base model, by the name that `GET /v1/models` shows.",
      }),
      prompt: Type.Union(
        [Type.String(), TokenIds, Type.Array(Type.Union([Type.String(), TokenIds]), { maxItems: MAX_PROMPTS })],
        {
          hint: "a list has either token ids or prompts",
          description:
            "A text, a list of token ids, or a list of several such prompts. Choice c of prompt p has index p * n + c.",
        },
      ),
      max_tokens: Optional(
        Type.Integer({
          minimum: 0,
          default: DEFAULT_MAX_TOKENS,
          description:
            "New tokens at most. Prefix + prompt + new tokens must not exceed n_positions + 1; the default is lowered to fit. 0 only with `echo`.",
        }),
      ),
      temperature: Optional(
        Type.Number({ minimum: 0, default: 1, description: "Divides the logits. 0: always the likeliest token." }),
      ),
      top_p: field.top_p,
      n: Optional(
        Type.Integer({
          minimum: 1,
          default: 1,
          description: "Choices per prompt; more than 1 needs a temperature above 0, or num_beams.",
        }),
      ),
      best_of: Optional(
        Type.Integer({
          minimum: 1,
          description:
            "Sample this many choices per prompt and return the n with the highest mean log probability per token, best first. Default: n. Not with stream or num_beams.",
        }),
      ),
      stream: Optional(Type.Boolean({ default: false, description: "Answer with server-sent events." })),
      stream_options: Optional(
        strict(
          {
            include_usage: Optional(
              Type.Boolean({
                default: false,
                description: "Send one more chunk before `[DONE]`, without choices and with `usage`.",
              }),
            ),
          },
          { description: "Only with stream" },
        ),
      ),
      logprobs: Optional(
        Type.Integer({
          minimum: 0,
          maximum: MAX_LOGPROBS,
          description:
            "Report each token's log probability and those of the k likeliest tokens, before any processing. (OpenAI's own API allows 5.)",
        }),
      ),
      echo: Optional(
        Type.Boolean({
          default: false,
          description: "Begin each choice with the prompt and, with `logprobs`, its log probabilities.",
        }),
      ),
      stop: Optional({
        ...field.stop,
        description: "Strings that end a choice; its text ends before them.",
      }),
      seed: Optional({ ...field.seed, description: "The same seed gives the same answer." }),
      presence_penalty: field.presence_penalty,
      frequency_penalty: field.frequency_penalty,
      logit_bias: field.logit_bias,
      suffix: Optional(Type.String({ description: "Refused: GPT-2 does not infill." })),
      user: Optional(Type.String({ description: "Ignored" })),
      store: Optional(Type.Boolean({ description: "Ignored: nothing is stored" })),
      metadata: Optional(Type.Record(Type.String(), Type.String(), { maxProperties: 16, description: "Ignored" })),
      top_k: Optional(
        Type.Integer({
          minimum: -1,
          default: 0,
          description: "Sample from the k likeliest tokens; 0 or -1: from all. As in vLLM, like all that follow.",
        }),
      ),
      min_p: field.min_p,
      repetition_penalty: field.repetition_penalty,
      min_tokens: Optional(
        Type.Integer({ minimum: 0, default: 0, description: "EOS cannot come before this many new tokens." }),
      ),
      ignore_eos: field.ignore_eos,
      stop_token_ids: Optional({
        ...field.stop_token_ids,
        description: "Ids of tokens that end a choice as stop strings do.",
      }),
      bad_words: field.bad_words,
      structured_outputs: field.structured_outputs,
      num_beams: Optional({
        ...field.num_beams,
        description:
          "Beam search with this many beams, in place of vLLM's use_beam_search; nothing is sampled. Not with stream.",
      }),
      return_token_ids: Optional(
        Type.Boolean({ default: false, description: "Return the ids of a choice's tokens as `token_ids`." }),
      ),
    },
    {
      description:
        "OpenAI's completions request. Its defaults are OpenAI's, whatever the model's generation_config.json says. null for an optional field means that it is absent. Unknown fields are refused.",
      examples: [
        { model: "intent", prompt: "i would like to report my american express card stolen\n=>", temperature: 0 },
      ],
    },
  ),
);
export type CompletionsBody = Static<typeof CompletionsBody>;

const Logprobs = strict({
  tokens: Type.Array(
    Type.String({ description: "The token as text; bytes that do not form a whole character appear as U+FFFD" }),
  ),
  token_logprobs: Type.Array(Type.Union([Type.Number(), Type.Null()]), {
    description: "null for the first token of an echoed prompt",
  }),
  top_logprobs: Type.Array(Type.Union([Type.Record(Type.String(), Type.Number()), Type.Null()]), {
    description: "By the token's text; the chosen token is always there",
  }),
  text_offset: Type.Array(Type.Integer(), {
    description: "Where in `text` the token begins, in Unicode code points; in a stream, in the choice's whole text",
  }),
});

export const FinishReason = Type.Enum(["stop", "length"], {
  description: "stop: EOS, a stop string or a token of stop_token_ids; length: max_tokens reached",
});
const choice = {
  index: Type.Integer(),
  text: Type.String(),
  logprobs: Type.Union([Logprobs, Type.Null()]),
  token_ids: Optional(Type.Array(Type.Integer())),
};
const common = {
  id: Type.String(),
  object: Type.Literal("text_completion"),
  created: Type.Integer({ description: "Unix time in seconds" }),
  model: Type.String({ description: "As in the request" }),
};
export const Usage = strict({
  prompt_tokens: Type.Integer({ description: "Summed over the prompts; without those of the prefix" }),
  completion_tokens: Type.Integer({
    description: "All generated tokens, including those of choices and beams that are not returned",
  }),
  total_tokens: Type.Integer({ description: "The sum of both" }),
  prefix_tokens: Type.Integer({ description: "Virtual tokens of the prefix" }),
});

export const CompletionsResponse = named(
  "CompletionsResponse",
  strict({
    ...common,
    choices: Type.Array(strict({ ...choice, finish_reason: FinishReason })),
    usage: Usage,
  }),
);
export type CompletionsResponse = Static<typeof CompletionsResponse>;

export const CompletionsChunk = named(
  "CompletionsChunk",
  strict(
    {
      ...common,
      choices: Type.Array(strict({ ...choice, finish_reason: Type.Union([FinishReason, Type.Null()]) })),
      usage: Optional(
        Type.Union([Usage, Type.Null()], { description: "Only with include_usage; set in the last chunk" }),
      ),
    },
    { description: "One event of a stream; a choice's text is the concatenation of its parts" },
  ),
);
export type CompletionsChunk = Static<typeof CompletionsChunk>;

const EXAMPLE = {
  id: "cmpl-8c6a1f0e-5d2b-4f7a-9b3c-1e2d3f4a5b6c",
  object: "text_completion",
  created: 1767225600,
  model: "intent",
};

export const COMPLETIONS_EXAMPLE = {
  ...EXAMPLE,
  choices: [{ index: 0, text: " report lost card", logprobs: null, finish_reason: "stop" }],
  usage: { prompt_tokens: 18, completion_tokens: 4, total_tokens: 22, prefix_tokens: 10 },
};

/** Of the data of a stream's events. */
export const COMPLETIONS_STREAM_EXAMPLES = {
  text: {
    value: { ...EXAMPLE, choices: [{ index: 0, text: " report", logprobs: null, finish_reason: null }] },
  },
  end: { value: { ...EXAMPLE, choices: [{ index: 0, text: "", logprobs: null, finish_reason: "stop" }] } },
};
