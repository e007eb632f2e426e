import Type, { type Static } from "typebox";
import { Check } from "typebox/value";
import type { Target } from "./http.ts";
import type { Shape } from "./prefix-content.ts";

const size = Type.Integer({ minimum: 1 });

/** The fields read of `GET /model`. */
const ModelAnswer = Type.Object({
  model: Type.String(),
  layers: size,
  heads: size,
  head_dim: size,
  vocab_size: size,
  device: Type.String(),
  precision: Type.String(),
  limits: Type.Object({ max_batch: size, max_queue: Type.Integer({ minimum: 0 }) }),
});
export type ServedModel = Static<typeof ModelAnswer>;

/** The server's description of its model; null if it gives none. */
export async function readServedModel(target: Target, key: string | null): Promise<ServedModel | null> {
  const { status, text } = await target.call("GET", "/model", key);
  const answer: unknown = status === 200 ? JSON.parse(text) : null;
  return Check(ModelAnswer, answer) ? answer : null;
}

/** Flags; null where the server's answer applies. */
export interface GivenModel {
  readonly shape: Shape | null;
  readonly vocabulary: number | null;
}

/** The model that prefixes and prompts are generated for. */
export interface Model {
  /** Null if unknown; prefixes are hard prompts then. */
  readonly shape: Shape | null;
  readonly vocabulary: number;
}

/** Ids below this are single bytes in every GPT-2 vocabulary. */
const BYTES = 256;

export function chooseModel(given: GivenModel, served: ServedModel | null): Model {
  const said = served === null ? null : { layers: served.layers, heads: served.heads, headDim: served.head_dim };
  return { shape: given.shape ?? said, vocabulary: given.vocabulary ?? served?.vocab_size ?? BYTES };
}
