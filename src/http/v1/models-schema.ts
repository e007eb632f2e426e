import Type, { type Static } from "typebox";
import { named, strict } from "../common-schema.ts";

export const ModelCard = named(
  "ModelCard",
  strict(
    {
      id: Type.String({ description: "What `model` is in a request" }),
      object: Type.Literal("model"),
      created: Type.Integer({ description: "Unix time in seconds; of the base model: when the server started" }),
      owned_by: Type.String({ description: "The user who owns the prefix; prefixd for the base model" }),
      root: Type.String({ description: "The base model" }),
      parent: Type.Union([Type.String(), Type.Null()], { description: "The base model; null for itself" }),
      max_model_len: Type.Integer({ description: "Prompt and new tokens together that always fit" }),
    },
    { description: "A prefix, or the base model" },
  ),
);
export type ModelCard = Static<typeof ModelCard>;

export const ModelCards = named(
  "ModelCards",
  strict({
    object: Type.Literal("list"),
    data: Type.Array(ModelCard),
    has_more: Type.Boolean({ description: "Whether more follow; `after` with the last id continues" }),
  }),
);

export const DeletedModel = named(
  "DeletedModel",
  strict({ id: Type.String(), object: Type.Literal("model"), deleted: Type.Boolean() }),
);
export type DeletedModel = Static<typeof DeletedModel>;

export const ModelsQuery = strict({
  limit: Type.Optional(
    Type.Integer({
      minimum: 1,
      maximum: 1000,
      default: 1000,
      description: "Prefixes per page; a page also ends at about 1 MiB",
    }),
  ),
  after: Type.Optional(Type.String({ description: "Only prefixes after this id" })),
});

export const ModelParams = Type.Object({
  model: Type.String({ description: "`name`, `user/name` or `user%2Fname`, or the base model", examples: ["intent"] }),
});

/** An id whose slash is not escaped. */
export const TwoPartParams = Type.Object({ user: Type.String(), name: Type.String() });

export const MODEL_EXAMPLE: ModelCard = {
  id: "intent",
  object: "model",
  created: 1767225600,
  owned_by: "ann",
  root: "gpt2",
  parent: "gpt2",
  max_model_len: 1014,
};
