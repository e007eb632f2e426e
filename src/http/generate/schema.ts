import Type, { type Static } from "typebox";
import { named, strict } from "../common-schema.ts";
import { StructuredOutputs } from "./structured-outputs.ts";

const TokenIds = Type.Array(Type.Integer({ minimum: 0 }));
const Prompt = Type.Union([Type.String(), TokenIds]);

export const MAX_PROMPTS = 64;
export const MAX_STOPS = 16;
export const MAX_BEAMS = 16;
export const MAX_LOGPROBS = 20;
const StopString = Type.String({ minLength: 1, maxLength: 256 });

export const MAX_BAD_WORDS = 256;
const BadText = Type.String({ minLength: 1, maxLength: 128 });
export const BadIds = Type.Array(Type.Integer({ minimum: 0 }), { minItems: 1, maxItems: 64 });
export const MAX_BIASES = 512;
export const MAX_SUPPRESSED = 1024;
export const MAX_FORCED = 16;
export const TokenId = Type.Integer({ minimum: 0 });
const Suppressed = Type.Array(TokenId, { maxItems: MAX_SUPPRESSED });

const penalty = (description: string): Type.TNumber =>
  Type.Number({ minimum: -2, maximum: 2, default: 0, description });

const { Optional } = Type;

/** `hint` is appended to the error when a value is refused. */
export const GenerateBody = named(
  "GenerateRequest",
  strict(
    {
      prompt: Optional(
        Type.Union([Type.String(), TokenIds], {
          hint: "several prompts go into prompts",
          description: "The prompt, as text or as token ids; not empty. Give either this or `prompts`.",
        }),
      ),
      prompts: Optional(
        Type.Array(Prompt, {
          minItems: 1,
          maxItems: MAX_PROMPTS,
          description:
            "Several prompts with the same parameters, accepted or refused together. Choice c of prompt p has index p * n + c.",
        }),
      ),
      add_special_tokens: Optional(
        Type.Boolean({
          default: true,
          description:
            "Add the special tokens that the model's tokenizer adds to a text, such as BOS: `special_tokens` in `GET /model`, none for most GPT-2s. Prompts given as token ids are left as they are.",
        }),
      ),
      prefix_id: Optional(
        Type.Union([Type.String(), Type.Null()], {
          description: "The prefix to use; absent or null: the bare base model, if the server allows it.",
        }),
      ),
      max_new_tokens: Optional(
        Type.Integer({
          minimum: 0,
          default: 20,
          description:
            "Prefix + prompt + new tokens must not exceed n_positions + 1; a default is lowered to fit. 0 is allowed only with `echo` and takes as much room as 1.",
        }),
      ),
      min_new_tokens: Optional(
        Type.Integer({ minimum: 0, default: 0, description: "EOS cannot come before this many new tokens." }),
      ),
      do_sample: Optional(
        Type.Boolean({
          default: false,
          description:
            "Sample the next token. false takes the likeliest one, and the sampling parameters have no effect, as in transformers.",
        }),
      ),
      temperature: Optional(
        Type.Number({
          minimum: 0,
          default: 1,
          description: "Divides the logits. 0: always the likeliest token, as without do_sample.",
        }),
      ),
      top_h: Optional(
        Type.Number({
          exclusiveMinimum: 0,
          maximum: 1,
          description:
            "Sample from the likeliest tokens that hold this share of the entropy of the 100 likeliest; absent: off.",
        }),
      ),
      top_k: Optional(
        Type.Integer({ minimum: 0, default: 50, description: "Sample from the k likeliest tokens; 0: from all." }),
      ),
      top_p: Optional(
        Type.Number({
          exclusiveMinimum: 0,
          maximum: 1,
          default: 1,
          description: "Sample from the likeliest tokens that together have this probability; 1: from all.",
        }),
      ),
      min_p: Optional(
        Type.Number({
          minimum: 0,
          maximum: 1,
          default: 0,
          description: "Leave out tokens less likely than this fraction of the likeliest one's probability; 0: off.",
        }),
      ),
      typical_p: Optional(
        Type.Number({
          exclusiveMinimum: 0,
          maximum: 1,
          default: 1,
          description:
            "Sample from the tokens whose surprise is nearest to the entropy and that together have this probability; 1: from all.",
        }),
      ),
      epsilon_cutoff: Optional(
        Type.Number({
          minimum: 0,
          exclusiveMaximum: 1,
          default: 0,
          description: "Leave out tokens less likely than this; 0: off.",
        }),
      ),
      eta_cutoff: Optional(
        Type.Number({
          minimum: 0,
          exclusiveMaximum: 1,
          default: 0,
          description: "Leave out tokens less likely than min(eta, sqrt(eta) exp(-entropy)); 0: off.",
        }),
      ),
      repetition_penalty: Optional(
        Type.Number({
          exclusiveMinimum: 0,
          default: 1,
          description: "Above 1: tokens that occur in the prompt or the answer become less likely.",
        }),
      ),
      presence_penalty: Optional(
        penalty(
          "Subtracted from the logits of tokens that occur in the answer (not in the prompt), as in OpenAI's API.",
        ),
      ),
      frequency_penalty: Optional(penalty("The same, multiplied by how often the token occurs in the answer.")),
      no_repeat_ngram_size: Optional(
        Type.Integer({
          minimum: 0,
          default: 0,
          description: "No sequence of this many tokens occurs twice, the prompt included; 0: off.",
        }),
      ),
      bad_words: Optional(
        Type.Array(Type.Union([BadText, BadIds]), {
          maxItems: MAX_BAD_WORDS,
          description:
            "Sequences that must not occur in the answer: token ids, or text, which stands for itself with and without a space before it. A sequence's last token is forbidden once the others have come.",
        }),
      ),
      logit_bias: Optional(
        Type.Record(Type.String(), Type.Number({ minimum: -100, maximum: 100 }), {
          maxProperties: MAX_BIASES,
          description: "Token ids and what is added to their logits, before all else.",
          examples: [{ "50256": -100 }],
        }),
      ),
      sequence_bias: Optional(
        Type.Array(Type.Tuple([BadIds, Type.Number({ minimum: -100, maximum: 100 })]), {
          maxItems: MAX_BIASES,
          description:
            "Pairs of a token-id sequence and a bias, which is added to the logit of the sequence's last id once the others have come. A sequence of one id acts like `logit_bias`, which must not name that id as well.",
          examples: [[[[464, 3290], -10]]],
        }),
      ),
      suppress_tokens: Optional({ ...Suppressed, description: "Token ids that are never generated." }),
      begin_suppress_tokens: Optional({
        ...Suppressed,
        description: "Token ids that are not generated first (or second, where `forced_bos_token_id` comes first).",
      }),
      forced_bos_token_id: Optional(
        Type.Integer({
          minimum: 0,
          description:
            "The first new token if the prompt is one token long; as in transformers, without effect otherwise.",
        }),
      ),
      forced_eos_token_id: Optional(
        Type.Union([TokenId, Type.Array(TokenId, { maxItems: MAX_FORCED })], {
          description:
            "The last of max_new_tokens tokens, if nothing ends the answer earlier: this id, or one of these.",
        }),
      ),
      exponential_decay_length_penalty: Optional(
        Type.Tuple([Type.Integer({ minimum: 0 }), Type.Number({ exclusiveMinimum: 0, maximum: 100 })], {
          description:
            "[start, factor]: after `start` new tokens, the EOS logit x rises by |x| (factor^m - 1), where m is the number of tokens since. Not with ignore_eos.",
          examples: [[10, 1.2]],
        }),
      ),
      renormalize_logits: Optional(
        Type.Boolean({
          default: false,
          description:
            "Renormalise the scores after all processors and warpers. It changes beam search scores, and nothing without num_beams.",
        }),
      ),
      n: Optional(
        Type.Integer({
          minimum: 1,
          default: 1,
          description:
            "Choices per prompt; more than 1 needs do_sample or num_beams. With num_beams: the n best sequences, best first.",
        }),
      ),
      seed: Optional(
        Type.Integer({
          minimum: 0,
          maximum: 0xffff_ffff,
          description: "The same seed gives the same answer. When absent, one is drawn and returned in the response.",
        }),
      ),
      stop: Optional(
        Type.Union([StopString, Type.Array(StopString, { maxItems: MAX_STOPS })], {
          description:
            "Strings that end a choice. `text` ends before the string, `token_ids` with the token that completed it. The name of a special token, such as `<|endoftext|>`, matches that token.",
        }),
      ),
      stop_token_ids: Optional(
        Type.Array(TokenId, {
          maxItems: MAX_STOPS,
          description:
            "Ids of tokens that end a choice as stop strings do: `text` ends before the token, `token_ids` with it.",
        }),
      ),
      structured_outputs: Optional(StructuredOutputs),
      ignore_eos: Optional(Type.Boolean({ default: false, description: "Go on after EOS." })),
      logprobs: Optional(
        Type.Integer({
          minimum: 0,
          maximum: MAX_LOGPROBS,
          description:
            "Report each token's log probability and the k likeliest tokens, before any processing; 0: only the token's own.",
        }),
      ),
      return_token_ids: Optional(
        Type.Boolean({ description: "Return the ids of the new tokens. Default: true in a stream, false otherwise." }),
      ),
      timings: Optional(
        Type.Boolean({ default: false, description: "Tell how long the request waited and ran: `timings`." }),
      ),
      stream: Optional(
        Type.Boolean({ default: false, description: "Answer with server-sent events. Not with num_beams or best_of." }),
      ),
      num_beams: Optional(
        Type.Integer({
          minimum: 1,
          maximum: MAX_BEAMS,
          default: 1,
          description:
            "Beam search with this many beams, as in transformers; 1: off. With do_sample the continuations are sampled. Not with stream. Choices have a `score`.",
        }),
      ),
      length_penalty: Optional(
        Type.Number({
          minimum: -10,
          maximum: 10,
          default: 1,
          description:
            "Beam search: a sequence's score is the sum of its log probabilities divided by its length to this power. Above 0 favours long sequences.",
        }),
      ),
      early_stopping: Optional(
        Type.Union([Type.Boolean(), Type.Literal("never")], {
          default: false,
          description:
            'Beam search: true stops once num_beams sequences have finished, false when better ones are unlikely, "never" only when they are impossible.',
        }),
      ),
      best_of: Optional(
        Type.Integer({
          minimum: 1,
          description:
            "Sample this many choices per prompt and return the n with the highest mean log probability per token, best first. Default: n. More than n needs do_sample; not with num_beams or stream.",
        }),
      ),
      echo: Optional(
        Type.Boolean({
          default: false,
          description:
            "Begin each choice with the prompt: `text`, `token_ids` and, with `logprobs`, the prompt's own log probabilities (of its first token null).",
        }),
      ),
    },
    {
      elsewhere: {
        fields: [
          "model",
          "max_tokens",
          "max_completion_tokens",
          "min_tokens",
          "stream_options",
          "user",
          "store",
          "metadata",
        ],
        hint: "OpenAI's fields are those of POST /v1/completions.",
      },
      description:
        "Names, meaning and defaults are those of transformers' generate(). Where the model's generation_config.json has a field, its value is the default: `GET /model` shows them. An optional field that is null counts as absent. Unknown fields are refused.",
      examples: [
        {
          prefix_id: "intent",
          prompt: "i would like to report my american express card stolen\n=>",
          max_new_tokens: 10,
        },
      ],
    },
  ),
);
export type GenerateBody = Static<typeof GenerateBody>;

/** APIs' names of each other's fields, for the error's hint: the first one that the route has is meant. */
export const FIELD_ALIASES: Readonly<Record<string, string | readonly string[]>> = {
  max_tokens: "max_new_tokens",
  max_length: ["max_new_tokens", "max_tokens"],
  max_completion_tokens: ["max_new_tokens", "max_tokens"],
  max_new_tokens: "max_tokens",
  min_tokens: "min_new_tokens",
  min_length: ["min_new_tokens", "min_tokens"],
  min_new_tokens: "min_tokens",
  prefix_id: "model",
  prompts: ["prompt", "messages"],
  prompt: "messages",
  do_sample: "temperature",
  num_return_sequences: "n",
  inputs: "prompt",
  input: "prompt",
  input_ids: "prompt",
  text: "prompt",
  model: "prefix_id",
  prefix: "prefix_id",
  adapter_id: "prefix_id",
  stop_strings: "stop",
  stop_sequences: "stop",
  top_logprobs: "logprobs",
  bad_words_ids: "bad_words",
  ngram_size: "no_repeat_ngram_size",
};

const NO_TOOLS = "GPT-2 has not learnt to call tools";
const TEXT_ALONE = "GPT-2 reads and writes text alone";

/**
 * Parameters of transformers and other servers that are not offered, each with the reason: they are refused as
 * unsupported instead of as typing errors.
 */
export const NOT_OFFERED: Readonly<Record<string, string>> = {
  guidance_scale: "it runs a second, unconditional sequence beside each one",
  penalty_alpha: "contrastive search runs the model on every candidate; transformers has moved it out of its library",
  dola_layers: "DoLa reads logits of inner layers, which the model's graph does not return",
  prompt_lookup_num_tokens: "assisted decoding needs batches of its own, and gives the same answers",
  assistant_model: "assisted decoding needs batches of its own, and gives the same answers",
  watermarking_config: "a mark that the client chooses proves nothing about where a text comes from",
  watermark: "a mark that the client chooses proves nothing about where a text comes from",
  num_beam_groups: "group beam search is gone from transformers' library",
  diversity_penalty: "group beam search is gone from transformers' library",
  force_words_ids: "constrained beam search is gone from transformers' library",
  encoder_repetition_penalty: "it is meant for models with an encoder; use repetition_penalty",
  encoder_no_repeat_ngram_size: "it is meant for models with an encoder; use no_repeat_ngram_size",
  remove_invalid_values: "logits that are not numbers end the request; replacing them would hide it",
  max_time: "an answer must not depend on how busy the server is; close the connection instead",
  include_stop_str_in_output: "token_ids has the tokens that completed it",
  use_cache: "the KV cache is always used",
  use_beam_search: "use num_beams",
  prompt_logprobs: "use echo with logprobs",
  messages: "it is a field of /v1/chat/completions; here send the text as prompt",
  tools: NO_TOOLS,
  tool_choice: NO_TOOLS,
  parallel_tool_calls: NO_TOOLS,
  functions: NO_TOOLS,
  function_call: NO_TOOLS,
  image_url: TEXT_ALONE,
  input_audio: TEXT_ALONE,
  file: TEXT_ALONE,
  audio: TEXT_ALONE,
  modalities: TEXT_ALONE,
  prediction: "assisted decoding needs batches of its own, and gives the same answers",
  reasoning_effort: "GPT-2 does not reason",
  verbosity: "GPT-2 knows no such wish; write it into the prompt",
  web_search_options: "nothing is searched",
  truncate: "a prompt that does not fit is refused, not cut",
  suffix: "GPT-2 does not infill",
  grammar: "use structured_outputs with choice, regex, json or json_object",
  guided_grammar: "use structured_outputs with choice, regex, json or json_object",
  guided_json: 'use "structured_outputs": {"json": schema}',
  json_schema: 'use "structured_outputs": {"json": schema}',
  format: 'use "structured_outputs": {"json": schema}',
  response_format: 'use "structured_outputs": {"json": schema} or {"json_object": true}',
  guided_regex: 'use "structured_outputs": {"regex": expression}',
  regex: 'use "structured_outputs": {"regex": expression}',
  guided_choice: 'use "structured_outputs": {"choice": texts}',
  choice: 'use "structured_outputs": {"choice": texts}',
  guided_decoding_backend: "there is one implementation",
  guided_whitespace_pattern: "JSON has at most one space, after a comma or a colon",
  mirostat: "transformers' generate() has none",
  top_a: "transformers' generate() has none",
  tfs: "transformers' generate() has none",
};

const TopLogprob = strict({
  id: Type.Integer(),
  token: Type.String({ description: "The token as text; bytes that do not form a whole character appear as U+FFFD" }),
  logprob: Type.Number(),
});
const Logprobs = strict({
  token_logprobs: Type.Array(Type.Union([Type.Number(), Type.Null()]), {
    description: "null for the first token of an echoed prompt",
  }),
  top_logprobs: Type.Array(Type.Array(TopLogprob)),
});
const FinishReason = Type.Enum(["length", "eos", "stop", "removed"], {
  description:
    "length: max_new_tokens reached; eos: the model ended it; stop: a stop string, a token of stop_token_ids, or nothing more fits structured_outputs; removed: the prefix was removed meanwhile (streams only)",
});

const choice = {
  index: Type.Integer(),
  text: Type.String(),
  token_ids: Type.Optional(Type.Array(Type.Integer(), { description: "Includes EOS when EOS ended the choice" })),
  logprobs: Type.Optional(Logprobs),
  score: Type.Optional(
    Type.Number({
      description:
        "With num_beams: transformers' sequences_scores. With best_of: the mean log probability of the generated tokens",
    }),
  ),
};
const Usage = strict({
  prefix_tokens: Type.Integer({ description: "Virtual tokens of the prefix" }),
  prompt_tokens: Type.Integer({ description: "Summed over the prompts" }),
  completion_tokens: Type.Integer({
    description: "All generated tokens, including those of choices and beams that are not returned",
  }),
});
const Timings = strict(
  {
    queue_ms: Type.Number({ description: "From its admission until it left the queue" }),
    prefill_ms: Type.Number({ description: "From there to the first token" }),
    decode_ms: Type.Number({ description: "From the first token to the last" }),
    tokens_per_second: Type.Union([Type.Number(), Type.Null()], {
      description: "The tokens after the first by decode_ms; null if there are none",
    }),
  },
  { description: "With `timings`, in milliseconds" },
);
const common = {
  id: Type.String(),
  prefix: Type.Union([strict({ id: Type.String(), digest: Type.String() }), Type.Null()], {
    description: "The exact version that was attended to; null: the bare base model",
  }),
  model: Type.String(),
  usage: Usage,
  seed: Type.Integer(),
  timings: Type.Optional(Timings),
};

export const GenerateResponse = named(
  "GenerateAnswer",
  strict({
    object: Type.Literal("generation"),
    ...common,
    choices: Type.Array(strict({ ...choice, finish_reason: FinishReason })),
  }),
);
export type GenerateResponse = Static<typeof GenerateResponse>;

const OpenChoice = strict({ ...choice, finish_reason: Type.Union([FinishReason, Type.Null()]) });
export const GenerateEvent = named(
  "GenerateEvent",
  strict(
    { object: Type.Literal("generation.step"), choices: Type.Array(OpenChoice) },
    { description: "One step of a stream" },
  ),
);
export const GenerateLastEvent = named(
  "GenerateLastEvent",
  strict(
    { object: Type.Literal("generation.end"), ...common, choices: Type.Array(OpenChoice) },
    { description: "The last event of a stream" },
  ),
);
export type GenerateEvent = Static<typeof GenerateEvent>;

/** What `data:` of a stream's events holds, apart from errors and the end mark. */
export const GenerateStream = named(
  "GenerateStream",
  Type.Union([GenerateEvent, GenerateLastEvent], {
    type: "object",
    description: "The data of an event of a stream; `object` tells which. `event: error` has a Problem instead.",
  }),
);

const digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
const RESULT = {
  prefix: { id: "intent", digest },
  model: "demo",
  usage: { prefix_tokens: 10, prompt_tokens: 19, completion_tokens: 4 },
  seed: 2463534242,
};
export const GENERATE_RESPONSE_EXAMPLE = {
  object: "generation",
  id: "gen-6f9619ff-8b86-4d01-b42d-00cf4fc964ff",
  ...RESULT,
  choices: [{ index: 0, text: " report lost card", finish_reason: "eos" }],
};
/** Of the data of a stream's events. */
export const GENERATE_STREAM_EXAMPLES = {
  step: {
    value: {
      object: "generation.step",
      choices: [{ index: 0, text: " report", token_ids: [1203], finish_reason: null }],
    },
  },
  end: {
    value: {
      object: "generation.end",
      choices: [{ index: 0, text: "", token_ids: [4095], finish_reason: "eos" }],
      id: "gen-6f9619ff-8b86-4d01-b42d-00cf4fc964ff",
      ...RESULT,
    },
  },
};
