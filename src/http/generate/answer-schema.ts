/** What /generate answers, whole and as a stream. */
import Type, { type Static } from "typebox";
import { named, strict } from "../common-schema.ts";

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
