import Type, { type Static } from "typebox";

const { Optional } = Type;
const Ms = Type.Number({ exclusiveMinimum: 0 });
const Share = Type.Number({ minimum: 0, maximum: 1 });
const strict = { additionalProperties: false };

const common = {
  error_rate: Optional(
    Type.Record(Type.String(), Share, {
      description: "Largest share that may fail, by code; `*` is all other codes together",
    }),
  ),
  ttft_p99_ms: Optional(Ms),
  inter_token_p99_ms: Optional(Ms),
  end_to_end_p99_ms: Optional(Ms),
  goodput: Optional(Share),
  jain: Optional(Share),
};

/** When a run passes. A wrong token or digest always fails it. */
export const CriteriaSchema = Type.Object(
  {
    ...common,
    tokens_per_s: Optional(Type.Number({ minimum: 0 })),
    min_compared: Optional(
      Type.Integer({ minimum: 0, description: "Answers compared with the same request run alone" }),
    ),
    refused_p99_ms: Optional(Type.Number({ exclusiveMinimum: 0, description: "From sending to a 429" })),
    recovery_s: Optional(
      Type.Number({
        minimum: 0,
        description: "From the start of the last step until requests meet the SLO again",
      }),
    ),
    memory_slope_mib_per_min: Optional(Type.Number()),
    left_over: Optional(
      Type.Integer({
        minimum: 0,
        description:
          "How many more open files, active resources and event listeners (of each) an idle server may have after the load",
      }),
    ),
    client_lag_p99_ms: Optional(Ms),
    groups: Optional(Type.Record(Type.String(), Type.Object(common, strict))),
  },
  strict,
);
export type Criteria = Static<typeof CriteriaSchema>;
export type CommonCriteria = NonNullable<Criteria["groups"]>[string];
