import type { AppParts, TypedApp } from "../app-parts.ts";
import { json, problems } from "../common-schema.ts";
import { EmbeddingsDocument, EmbeddingsQuery, ModelDocument } from "./schema.ts";

/**
 * What a client needs to know about the model to make matching adapters and requests. Constant while the server runs.
 */
export function modelRoutes(app: TypedApp, { modelName, shape, model, embeddings, tokenizer, limits }: AppParts): void {
  const document: ModelDocument = {
    model: modelName,
    fingerprint: model.fingerprint,
    layers: shape.layers,
    heads: shape.heads,
    head_dim: shape.headDim,
    n_positions: shape.positions,
    vocab_size: shape.vocabSize,
    special_tokens: { before: [...tokenizer.around.before], after: [...tokenizer.around.after] },
    device: model.device,
    precision: model.precision,
    base_model: model.allowBaseModel,
    generation_defaults: model.defaults,
    limits: {
      max_batch: limits.slots,
      max_queue: limits.queue,
      max_n: limits.maxN,
      request_bytes: limits.requestBody,
      answer_bytes: limits.answer,
    },
  };
  app.get(
    "/model",
    {
      config: { access: "user" },
      schema: {
        operationId: "getModel",
        tags: ["operation"],
        summary: "The base model: its shape, its arithmetic, and the server's limits",
        description: "Includes the defaults of generate requests that the model's generation_config.json sets.",
        response: { 200: json("The model", ModelDocument), ...problems("unauthorized") },
      },
    },
    async () => document,
  );
  app.get(
    "/model/embeddings",
    {
      config: { access: "user" },
      schema: {
        operationId: "getEmbeddings",
        tags: ["operation"],
        summary: "The base model's input and output embeddings, as sha256 of their little-endian values",
        description:
          "PEFT may save copies of them with an adapter. A client that finds them equal need not upload them.",
        querystring: EmbeddingsQuery,
        response: {
          200: json("The digests", EmbeddingsDocument),
          ...problems("unauthorized", "unknown_field", "invalid_parameter"),
        },
      },
    },
    async (request) => embeddings(request.query.dtype ?? "F32"),
  );
}
