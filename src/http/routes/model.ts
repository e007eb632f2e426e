import type { AppParts, TypedApp } from "../app-parts.ts";
import { json, problems } from "../schemas/common.ts";
import { ModelDocument } from "../schemas/model.ts";

/** What a client must know of the model to make adapters and requests that fit it. It stays as it is while the server runs. */
export function modelRoutes(app: TypedApp, { modelName, shape, model, tokenizer, limits }: AppParts): void {
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
    limits: { max_batch: limits.slots, max_queue: limits.queue, max_n: limits.maxN, request_bytes: limits.requestBody },
  };
  app.get(
    "/model",
    {
      config: { access: "user" },
      schema: {
        operationId: "getModel",
        tags: ["operation"],
        summary: "The base model: its shape, its arithmetic, and the server's limits",
        response: { 200: json("The model", ModelDocument), ...problems("unauthorized") },
      },
    },
    async () => document,
  );
}
