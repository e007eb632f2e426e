import Type, { type Static } from "typebox";
import { NO_LIMITS } from "../../users/types.ts";
import { named, strict } from "../common-schema.ts";
import { NextPage, pageLimit } from "../page.ts";
import { UsageSumsDocument } from "../usage/schema.ts";

const MAX = Number.MAX_SAFE_INTEGER;
const limit = (description: string) =>
  Type.Optional(
    Type.Union([Type.Integer({ minimum: 0, maximum: MAX }), Type.Null()], {
      description: `${description}; null: no limit`,
    }),
  );

const LimitsBody = strict(
  {
    max_running: limit("Concurrently running sequences, per replica"),
    max_queued: limit("Waiting requests, per replica"),
    tokens_per_minute: limit(
      "Prompt and completion tokens, and those of registered soft and hard prompts, over all replicas",
    ),
    max_prefixes: limit("Registered prefixes"),
    max_prefix_bytes: limit("Total bytes of compiled prefixes"),
  },
  { title: "UserLimits" },
);
const Weight = Type.Number({
  exclusiveMinimum: 0,
  maximum: 1000,
  description: "Share of the model relative to other users under contention; usually 1",
});

export const CreateUserBody = named(
  "CreateUser",
  strict({
    id: Type.String({ description: "1 to 64 of A-Z a-z 0-9 . _ -, the first a letter or digit; not admin or local" }),
    weight: Type.Optional(Weight),
    limits: Type.Optional(LimitsBody),
  }),
);
export const PatchUserBody = named(
  "PatchUser",
  strict(
    {
      weight: Type.Optional(Weight),
      limits: Type.Optional(LimitsBody),
      suspended: Type.Optional(
        Type.Boolean({
          description: "true: the user's keys are refused (403 `user_suspended`) until false; nothing is deleted",
        }),
      ),
    },
    { minProperties: 1, description: "Absent fields stay unchanged" },
  ),
);
export const CreateKeyBody = named(
  "CreateKey",
  strict({
    expires_at: Type.Optional(
      Type.Union([Type.String(), Type.Null()], {
        description: "When the key expires, such as 2030-01-31T12:00:00Z; absent or null: never",
      }),
    ),
  }),
);
export type CreateKeyBody = Static<typeof CreateKeyBody>;

const user = {
  id: Type.String(),
  weight: Type.Number(),
  limits: LimitsBody,
  suspended: Type.Boolean(),
  created_at: Type.String({ format: "date-time" }),
  updated_at: Type.String({ format: "date-time" }),
};
export const UserDocument = named("User", strict(user));
export type UserDocument = Static<typeof UserDocument>;
export const UserList = named("UserList", strict({ users: Type.Array(UserDocument), next: NextPage }));

const KeyDocument = strict({
  key_id: Type.String(),
  created_at: Type.String(),
  expires_at: Type.Union([Type.String(), Type.Null()]),
});
export const UserDetail = named(
  "UserDetail",
  strict({
    ...user,
    keys: Type.Array(KeyDocument),
    prefixes: strict({ count: Type.Integer(), bytes: Type.Integer() }),
    usage: UsageSumsDocument,
  }),
);
export const NewKey = named(
  "NewKey",
  strict({
    key_id: Type.String(),
    key: Type.String({ description: "Shown only here" }),
    expires_at: Type.Union([Type.String(), Type.Null()]),
  }),
);
export const Receipt = named(
  "RemovalReceipt",
  strict({
    user: Type.String(),
    removed: strict({
      prefixes: Type.Integer(),
      keys: Type.Integer(),
      bytes: Type.Integer(),
      running: Type.Integer(),
      queued: Type.Integer(),
      training_files: Type.Integer(),
      training_jobs: Type.Integer(),
      training_bytes: Type.Integer({ description: "Of the training files" }),
    }),
    replicas: Type.Array(
      strict({
        id: Type.String({ description: "Unique to one run of a server" }),
        name: Type.String({ description: "The server's --replica-name" }),
        acknowledged_at: Type.Union([Type.String(), Type.Null()]),
      }),
    ),
    completed_at: Type.String({ format: "date-time" }),
  }),
);

export const UserParams = Type.Object({ user: Type.String({ description: "The user's id" }) });
export const KeyParams = Type.Object({
  user: Type.String({ description: "The user's id" }),
  key: Type.String({ description: "The key's id: its public part" }),
});
export const UsersQuery = strict({
  limit: pageLimit("Users"),
  after: Type.Optional(Type.String({ maxLength: 64, description: "Only users whose id comes after this one" })),
});
export const RemoveQuery = strict({
  keep_usage: Type.Optional(Type.Enum(["true", "false"], { description: "true: keep the usage, for billing" })),
});

const NOW = "2026-01-31T12:00:00.000Z";
export const USER_EXAMPLE: UserDocument = {
  id: "ann",
  weight: 1,
  limits: { ...NO_LIMITS, max_prefixes: 100 },
  suspended: false,
  created_at: NOW,
  updated_at: NOW,
};
export const RECEIPT_EXAMPLE = {
  user: "ann",
  removed: {
    prefixes: 3,
    keys: 1,
    bytes: 245760,
    running: 1,
    queued: 0,
    training_files: 2,
    training_jobs: 1,
    training_bytes: 70656,
  },
  replicas: [{ id: "prefixd-0-8080/a1b2", name: "prefixd-0-8080", acknowledged_at: NOW }],
  completed_at: NOW,
};
export const NEW_KEY_EXAMPLE = { key_id: "0123456789abcdef", key: "pfx_0123456789abcdef_...", expires_at: null };
