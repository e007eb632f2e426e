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
