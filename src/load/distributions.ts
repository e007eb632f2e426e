import Type, { type Static } from "typebox";
import { exponential, normal, type Random } from "./random.ts";

const whole = (minimum: number) => Type.Integer({ minimum, maximum: 1_000_000 });
const strict = { additionalProperties: false };

/** A number of tokens: fixed or drawn. */
export const LengthSchema = Type.Union([
  whole(1),
  Type.Object({ uniform: Type.Tuple([whole(1), whole(1)]) }, strict),
  Type.Object(
    {
      lognormal: Type.Object(
        { median: Type.Number({ minimum: 1 }), sigma: Type.Number({ minimum: 0, maximum: 5 }), max: whole(1) },
        strict,
      ),
    },
    strict,
  ),
  Type.Object({ exponential: Type.Object({ mean: Type.Number({ minimum: 1 }), max: whole(1) }, strict) }, strict),
  Type.Object(
    { weighted: Type.Array(Type.Tuple([whole(1), Type.Number({ exclusiveMinimum: 0 })]), { minItems: 1 }) },
    strict,
  ),
]);
export type Length = Static<typeof LengthSchema>;

/** Draws a whole number of at least 1, capped at `max`. */
export function drawLength(length: Length, random: Random): number {
  if (typeof length === "number") return length;
  if ("uniform" in length) {
    const [from, to] = length.uniform;
    return from + Math.floor(random() * (to - from + 1));
  }
  if ("lognormal" in length) {
    const { median, sigma, max } = length.lognormal;
    return clamp(median * Math.exp(sigma * normal(random)), max);
  }
  if ("exponential" in length) return clamp(length.exponential.mean * exponential(random), length.exponential.max);
  return drawWeighted(length.weighted, random);
}

const clamp = (value: number, max: number): number => Math.min(max, Math.max(1, Math.round(value)));

function drawWeighted(weighted: readonly (readonly [number, number])[], random: Random): number {
  let left = random() * weighted.reduce((sum, [, weight]) => sum + weight, 0);
  for (const [value, weight] of weighted) {
    left -= weight;
    if (left < 0) return value;
  }
  return weighted.at(-1)![0];
}

export const PopularitySchema = Type.Union([
  Type.Literal("uniform"),
  Type.Object(
    {
      zipf: Type.Number({
        exclusiveMinimum: 0,
        maximum: 5,
        description: "Exponent s: rank r is requested with a probability proportional to 1 / r^s",
      }),
    },
    strict,
  ),
]);
export type Popularity = Static<typeof PopularitySchema>;

/** Draws indices 0 .. count - 1; with Zipf, index i has rank i + 1. Exact: inverts the cumulative distribution. */
export function popularity(kind: Popularity, count: number): (random: Random) => number {
  if (kind === "uniform") return (random) => Math.floor(random() * count);
  const cumulated = new Float64Array(count);
  let sum = 0;
  for (let index = 0; index < count; index++) cumulated[index] = sum += (index + 1) ** -kind.zipf;
  return (random) => firstAbove(cumulated, random() * sum);
}

/** First index whose value exceeds `target`, in ascending values; the last value must. */
function firstAbove(values: Float64Array, target: number): number {
  let [from, to] = [0, values.length - 1];
  while (from < to) {
    const middle = (from + to) >> 1;
    if (values[middle]! > target) to = middle;
    else from = middle + 1;
  }
  return from;
}
