import Type, { type Static } from "typebox";
import { EMBEDDING_DTYPES } from "../../prefixes/adapter-weights.ts";
import { named, strict } from "../common-schema.ts";
import { GenerationDefaultsDocument } from "../generate/defaults-schema.ts";

const count = (description: string) => Type.Integer({ minimum: 0, description });

export const ModelDocument = named(
  "Model",
  strict({
    model: Type.String({ description: "The name of the base model's folder, or its id on the hub" }),
    fingerprint: Type.String({
      description: "SHA-256 of the base model's weights and shape; a prefix is valid for one fingerprint",
    }),
    layers: count("n_layer"),
    heads: count("n_head"),
    head_dim: count("n_embd / n_head"),
    n_positions: count("Number of positions; prefix, prompt and new tokens together may be one more than that"),
    vocab_size: count("Token ids are lower than this"),
    special_tokens: strict({
      before: Type.Array(Type.Integer(), {
        description: "Token ids put before a text prompt's own, unless add_special_tokens is false",
      }),
      after: Type.Array(Type.Integer(), { description: "Token ids put after them" }),
    }),
    device: Type.String({ description: "cpu, webgpu or cuda" }),
    precision: Type.String({ description: "fp32, int8 or fp16" }),
    base_model: Type.Boolean({ description: "Whether requests without a prefix are allowed" }),
    generation_defaults: GenerationDefaultsDocument,
    limits: strict({
      max_batch: count("Sequences that run concurrently"),
      max_queue: count("Requests that may wait; further ones are answered 429"),
      max_n: count("Largest n, best_of or num_beams"),
      request_bytes: count("Bytes of a JSON body"),
      answer_bytes: count(
        "Largest answer in bytes, estimated as if every token were the vocabulary's longest; a request that could exceed it is answered 422",
      ),
    }),
  }),
);
export const EmbeddingsQuery = strict({
  dtype: Type.Optional(
    Type.Enum([...EMBEDDING_DTYPES], {
      default: "F32",
      description: "The dtype they are cast to before hashing, as torch does",
    }),
  ),
});

export const EmbeddingsDocument = named(
  "Embeddings",
  strict({
    shape: Type.Array(Type.Integer(), { description: "vocab_size and width" }),
    sha256: strict({ "wte.weight": Type.String(), "lm_head.weight": Type.String() }),
  }),
);

export type ModelDocument = Static<typeof ModelDocument>;
