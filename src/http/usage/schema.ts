import Type, { type Static } from "typebox";
import { named, strict } from "../common-schema.ts";
import { NextPage, pageLimit } from "../page.ts";

const MONTH = "\\d{4}-\\d{2}";
const DAY = `${MONTH}-\\d{2}`;
const sums = {
  requests: Type.Integer({
    description: "Requests to generate. Registering a prompt is none, but its tokens and seconds are in the other sums",
  }),
  prefix_tokens: Type.Integer(),
  prompt_tokens: Type.Integer(),
  completion_tokens: Type.Integer(),
  queue_seconds: Type.Number(),
  run_seconds: Type.Number(),
};

export const UsageSumsDocument = named("UsageSums", strict(sums));
export type UsageSumsDocument = Static<typeof UsageSumsDocument>;

export const UsageRowDocument = named(
  "UsageRow",
  strict({
    day: Type.String({ format: "date" }),
    prefix: Type.Union([Type.String(), Type.Null()], { description: "null: the bare base model" }),
    ...sums,
  }),
);
export type UsageRowDocument = Static<typeof UsageRowDocument>;

export const UsageDocument = named(
  "Usage",
  strict(
    { user: Type.String(), totals: UsageSumsDocument, usage: Type.Array(UsageRowDocument), next: NextPage },
    { description: "`totals` are of all rows from `from` to `to`, whatever page this is" },
  ),
);
export type UsageDocument = Static<typeof UsageDocument>;

export const UsageQuery = strict({
  from: Type.Optional(Type.String({ pattern: `^${DAY}$`, description: "First UTC day" })),
  to: Type.Optional(Type.String({ pattern: `^${DAY}$`, description: "Last UTC day" })),
  limit: pageLimit("Rows"),
  after: Type.Optional(
    Type.String({
      pattern: `^${DAY}/(=[ -~]+)?$`,
      maxLength: 256,
      description: "Only rows after this one: `next` of the previous page",
    }),
  ),
});
export type UsageQuery = Static<typeof UsageQuery>;

const { day, ...ofRow } = UsageRowDocument.properties;
export const AllUsageRowDocument = named(
  "UserUsageRow",
  strict(
    {
      user: Type.String(),
      day: Type.Optional(day),
      month: Type.Optional(Type.String({ pattern: `^${MONTH}$`, description: "UTC month, such as 2026-01" })),
      ...ofRow,
    },
    { description: "`day` or, with `by=month`, `month`" },
  ),
);
export type AllUsageRowDocument = Static<typeof AllUsageRowDocument>;

export const AllUsageDocument = named("AllUsage", strict({ usage: Type.Array(AllUsageRowDocument), next: NextPage }));

export const AllUsageQuery = strict({
  ...UsageQuery.properties,
  by: Type.Optional(
    Type.Enum(["day", "month"], { default: "day", description: "Rows of a day, or the sums of a calendar month" }),
  ),
  after: Type.Optional(
    Type.String({
      pattern: `^[A-Za-z0-9._-]{1,64}/${MONTH}(-\\d{2})?/(=[ -~]+)?$`,
      maxLength: 320,
      description: "Only rows after this one: `next` of the previous page",
    }),
  ),
});
export type AllUsageQuery = Static<typeof AllUsageQuery>;

const SUMS_EXAMPLE: UsageSumsDocument = {
  requests: 3,
  prefix_tokens: 30,
  prompt_tokens: 54,
  completion_tokens: 60,
  queue_seconds: 0.004,
  run_seconds: 1.25,
};
export const USAGE_EXAMPLE: UsageDocument = {
  user: "ann",
  totals: SUMS_EXAMPLE,
  usage: [{ day: "2026-01-31", prefix: "intent", ...SUMS_EXAMPLE }],
  next: null,
};
export const ALL_USAGE_EXAMPLE = {
  usage: [{ user: "ann", day: "2026-01-31", prefix: "intent", ...SUMS_EXAMPLE }],
  next: null,
};
