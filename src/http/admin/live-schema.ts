import Type, { type Static } from "typebox";
import { named, strict } from "../common-schema.ts";

const count = (description: string) => Type.Integer({ minimum: 0, description });
const seconds = (description: string) => Type.Number({ minimum: 0, description });

const Row = strict(
  {
    user: Type.String(),
    prefix: Type.Union([Type.String(), Type.Null()], { description: "As `user/name`; null: the bare base model" }),
    phase: Type.Enum(["prefill", "decode"]),
    tokens: count("Of the prompt, fed so far (prefill), or generated so far (decode)"),
    of: count("The prompt's tokens (prefill), or the most that may be generated (decode)"),
    age_ms: count("Since its request was submitted, waiting included"),
  },
  { description: "One row of the batch: a choice or a beam of a request" },
);
const LiveUser = strict({
  user: Type.String(),
  weight: Type.Number(),
  rows: count("Rows of the batch"),
  waiting: count("Requests in the queue"),
  oldest_ms: Type.Union([count("How long the oldest of these has waited"), Type.Null()]),
});
const Steps = strict({
  runs: count("Runs of the model"),
  tokens: count("Tokens fed to it"),
  seconds: seconds("Time of the runs"),
});

export const LiveEvent = named(
  "LiveEvent",
  strict(
    {
      at: Type.String({ format: "date-time" }),
      state: Type.Enum(["serving", "draining"]),
      slots: count("Rows that the batch may have"),
      max_queue: count("Requests that may wait"),
      rows: Type.Array(Row),
      users: Type.Array(LiveUser, {
        description: "Users with requests that run or wait: of many, those with the most waiting",
      }),
      more_users: count("Users that are not listed"),
      waiting: count("Requests in the queue"),
      totals: strict(
        {
          steps: strict({ prefill: Steps, decode: Steps, fold: Steps }),
          first_token: strict({
            bounds: Type.Array(Type.Number(), { description: "In seconds" }),
            counts: Type.Array(Type.Integer(), {
              description: "Requests whose first token took at most bounds[i]; the last: longer than all bounds",
            }),
            seconds: seconds("Sum over these requests"),
          }),
          prefix_cache: strict({ hits: count("Found in memory"), misses: count("Read from the store") }),
          requests: Type.Record(Type.String(), Type.Integer(), {
            description:
              "Generate requests that ended, by outcome: ok, cancelled, too_slow, removed, or the error's code",
          }),
        },
        { description: "Since the start: the difference of two events is what happened in between" },
      ),
    },
    { description: "One event of `GET /admin/live`" },
  ),
);
export type LiveEvent = Static<typeof LiveEvent>;

export const LIVE_EXAMPLE: LiveEvent = {
  at: "2026-01-31T12:00:00.000Z",
  state: "serving",
  slots: 32,
  max_queue: 256,
  rows: [{ user: "ann", prefix: "admin/intent", phase: "decode", tokens: 3, of: 20, age_ms: 12 }],
  users: [{ user: "ann", weight: 1, rows: 1, waiting: 0, oldest_ms: null }],
  more_users: 0,
  waiting: 0,
  totals: {
    steps: {
      prefill: { runs: 3, tokens: 54, seconds: 0.012 },
      decode: { runs: 28, tokens: 31, seconds: 0.061 },
      fold: { runs: 0, tokens: 0, seconds: 0 },
    },
    first_token: { bounds: [0.005, 0.01], counts: [2, 1, 0], seconds: 0.014 },
    prefix_cache: { hits: 2, misses: 1 },
    requests: { ok: 2 },
  },
};
