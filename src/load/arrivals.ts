import Type, { type Static } from "typebox";
import { exponential, type Random } from "./random.ts";

const strict = { additionalProperties: false };
const seconds = Type.Number({ exclusiveMinimum: 0, maximum: 1e7 });

/** A step of a load: `rate` requests per second, changing linearly from `rate` to `to` if given. */
export const StepSchema = Type.Object(
  {
    for_s: seconds,
    rate: Type.Number({ minimum: 0, maximum: 1e6 }),
    to: Type.Optional(Type.Number({ minimum: 0, maximum: 1e6 })),
  },
  strict,
);
export type Step = Static<typeof StepSchema>;

const ClientStepSchema = Type.Object(
  {
    for_s: seconds,
    clients: Type.Integer({ minimum: 0, maximum: 100_000 }),
    to: Type.Optional(Type.Integer({ minimum: 0, maximum: 100_000 })),
  },
  strict,
);

/**
 * `poisson`: open loop; requests arrive whether or not earlier ones have been answered. `closed`: each client sends its
 * next request `think_s` after the last answer. `trace`: at the trace's `at_s`.
 */
export const ArrivalsSchema = Type.Union([
  Type.Object({ process: Type.Literal("poisson"), steps: Type.Array(StepSchema, { minItems: 1 }) }, strict),
  Type.Object(
    {
      process: Type.Literal("closed"),
      steps: Type.Array(ClientStepSchema, { minItems: 1 }),
      think_s: Type.Optional(Type.Number({ minimum: 0, maximum: 3600 })),
    },
    strict,
  ),
  Type.Object({ process: Type.Literal("trace") }, strict),
]);
export type Arrivals = Static<typeof ArrivalsSchema>;

/**
 * Arrival times, in seconds from the start, of a Poisson process whose rate follows the steps. By inversion: between
 * arrivals, the expected number of arrivals grows by an exponential of mean 1 (Cinlar 1975, section 4.7).
 */
export function* poissonArrivals(steps: readonly Step[], random: Random): Generator<number> {
  let begins = 0;
  let wanted = exponential(random);
  for (const { for_s: length, rate, to = rate } of steps) {
    const expected = ((rate + to) / 2) * length;
    while (wanted <= expected) {
      yield begins + timeOf(wanted, rate, (to - rate) / length);
      wanted += exponential(random);
    }
    wanted -= expected;
    begins += length;
  }
}

/** Solves rate t + slope t^2 / 2 = arrivals for t, in the form that also holds for a slope or rate of 0. */
function timeOf(arrivals: number, rate: number, slope: number): number {
  return (2 * arrivals) / (rate + Math.sqrt(Math.max(0, rate * rate + 2 * slope * arrivals)));
}

/** The rate or number of clients at a time; 0 after the last step. */
export function levelAt(
  steps: readonly { readonly for_s: number; readonly level: number; readonly to: number }[],
  at: number,
): number {
  let begins = 0;
  for (const step of steps) {
    if (at < begins + step.for_s) return step.level + ((step.to - step.level) * (at - begins)) / step.for_s;
    begins += step.for_s;
  }
  return 0;
}

/** A closed loop's number of clients at a time. */
export function clientsAt(arrivals: Extract<Arrivals, { process: "closed" }>, at: number): number {
  return Math.round(
    levelAt(
      arrivals.steps.map(({ for_s, clients, to = clients }) => ({ for_s, level: clients, to })),
      at,
    ),
  );
}

export const totalSeconds = (steps: readonly { readonly for_s: number }[]): number =>
  steps.reduce((sum, { for_s }) => sum + for_s, 0);
