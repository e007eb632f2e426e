import Type from "typebox";
import { named, strict } from "../common-schema.ts";

const { Optional } = Type;
/** Bytes of a text, and ids: some 0.7 s of work at worst, in steps between which others are served. */
export const MOST_TOKENS = 65_536;

const model = Optional(
  Type.String({ description: "Ignored, as all prefixes share one tokenizer; vLLM's clients send it" }),
);

export const TokenizeBody = named(
  "TokenizeRequest",
  strict(
    {
      prompt: Type.String({ description: `The text, of up to ${MOST_TOKENS} bytes` }),
      add_special_tokens: Optional(
        Type.Boolean({
          default: true,
          description: "Add the special tokens that a prompt gets, as `POST /generate` does.",
        }),
      ),
      return_token_strs: Optional(Type.Boolean({ default: false, description: "Return the tokens as text as well." })),
      model,
    },
    { description: "The names are vLLM's.", examples: [{ prompt: "once upon a time", return_token_strs: true }] },
  ),
);

export const TokenizeResponse = named(
  "TokenizeResponse",
  strict({
    count: Type.Integer({ description: "Number of tokens" }),
    count_without_special_tokens: Type.Integer({
      description: "The same without those that have no text, such as EOS",
    }),
    max_model_len: Type.Integer({ description: "The model's n_positions" }),
    tokens: Type.Array(Type.Integer()),
    token_strs: Optional(
      Type.Array(
        Type.String({ description: "The token as text; bytes that do not form a whole character appear as U+FFFD" }),
      ),
    ),
  }),
);

export const DetokenizeBody = named(
  "DetokenizeRequest",
  strict(
    {
      tokens: Type.Array(Type.Integer({ minimum: 0 }), { description: `Token ids, up to ${MOST_TOKENS}` }),
      skip_special_tokens: Optional(
        Type.Boolean({ default: false, description: "Leave special tokens out; otherwise they appear by name." }),
      ),
      model,
    },
    { description: "The names are vLLM's.", examples: [{ tokens: [464, 3290] }] },
  ),
);

export const DetokenizeResponse = named(
  "DetokenizeResponse",
  strict({
    prompt: Type.String({ description: "The text; bytes that do not form a whole character appear as U+FFFD" }),
  }),
);

export const TokenizerInfo = named(
  "TokenizerInfo",
  strict(
    {
      tokenizer_class: Type.String({ description: "Always `GPT2Tokenizer`" }),
      model_max_length: Type.Integer({ description: "The model's n_positions" }),
      eos_token: Type.Union([Type.String(), Type.Null()], { description: "null: the tokenizer names none" }),
      bos_token: Optional(Type.String()),
      unk_token: Optional(Type.String()),
      pad_token: Optional(Type.String()),
      chat_template: Optional(Type.String({ description: "What `/v1/chat/completions` renders; absent: no chat" })),
    },
    { description: "The names are those of a `tokenizer_config.json`." },
  ),
);
