/**
 * The records of an export, one JSON line each (docs/reference/export.md). Fields that a record has besides are kept:
 * a later version may have added them.
 */
import Type, { type Static, type TSchema } from "typebox";
import { Value } from "typebox/value";
import { ArchiveError } from "./archive-error.ts";

/** Changes when a reader of this version would misunderstand a file. */
export const FORMAT = 1;
/** Names of parts: the compiled keys and values, and `file:NAME` for each uploaded file. */
export const KV_PART = "kv";
export const filePart = (name: string): string => `file:${name}`;

const Time = Type.String({ pattern: "^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d\\.\\d{3}Z$" });
const Sha256 = Type.String({ pattern: "^[0-9a-f]{64}$" });
const Count = Type.Integer({ minimum: 0, maximum: Number.MAX_SAFE_INTEGER });
const OrNull = <T extends TSchema>(schema: T) => Type.Union([schema, Type.Null()]);
const Id = Type.String({ minLength: 1, maxLength: 128 });

const Limits = Type.Object({
  max_running: OrNull(Count),
  max_queued: OrNull(Count),
  tokens_per_minute: OrNull(Count),
  max_prefixes: OrNull(Count),
  max_prefix_bytes: OrNull(Count),
});
const User = Type.Object({
  id: Id,
  weight: Type.Number({ exclusiveMinimum: 0 }),
  limits: Limits,
  createdAt: Time,
  updatedAt: Time,
});
const Key = Type.Object({ id: Id, user: Id, hash: Sha256, createdAt: Time, expiresAt: OrNull(Time) });
const Meta = Type.Object({
  user: Id,
  name: Id,
  kind: Type.String(),
  digest: Sha256,
  length: Count,
  bytes: Count,
  base: Type.String(),
  createdAt: Time,
  updatedAt: Time,
  files: Type.Record(Type.String(), Count),
  visibility: Type.Optional(Type.Enum(["private", "shared"])),
  shared_with: Type.Optional(Type.Array(Id)),
  readable_by: Type.Optional(Type.Array(Id)),
});
const Part = Type.Object({ name: Type.String(), bytes: Count, sha256: Sha256 });
/** When the user was created: tells apart two users who had the same id. null: a user without a record. */
const Created = OrNull(Time);

const LINES = {
  /** The first record. `users`: only these, null: all. */
  export: Type.Object({
    kind: Type.Literal("export"),
    format: Count,
    prefixd: Type.String(),
    at: Time,
    users: OrNull(Type.Array(Id)),
  }),
  /** What the store knew to be deleted. */
  deletions: Type.Object({
    kind: Type.Literal("deletions"),
    deletions: Type.Array(Type.Object({ hash: Sha256, at: Time })),
  }),
  user: Type.Object({ kind: Type.Literal("user"), user: User, keys: Type.Array(Key) }),
  /** Its parts' bytes follow the line, in this order. `guests`: everybody in its lists. */
  prefix: Type.Object({
    kind: Type.Literal("prefix"),
    created: Created,
    meta: Meta,
    guests: Type.Record(Type.String(), Created),
    parts: Type.Array(Part),
  }),
  /** A prefix that the store could not read whole. */
  damaged: Type.Object({ kind: Type.Literal("damaged"), user: Id, name: Id }),
  usage: Type.Object({
    kind: Type.Literal("usage"),
    user: Id,
    created: Created,
    rows: Type.Array(
      Type.Object({
        prefix: OrNull(Id),
        day: Type.String({ pattern: "^\\d{4}-\\d\\d-\\d\\d$" }),
        /** As UsageCounts: times in microseconds. */
        counts: Type.Array(Count, { minItems: 6, maxItems: 6 }),
      }),
    ),
  }),
  /** The last record: how many come before it, and sha256 of all bytes before it. */
  end: Type.Object({ kind: Type.Literal("end"), records: Count, sha256: Sha256 }),
};

type Lines = { readonly [K in keyof typeof LINES]: Static<(typeof LINES)[K]> };
export type ArchiveRecord = Lines[keyof Lines];
export type ExportHeader = Lines["export"];
export type UserRecord = Lines["user"];
export type PrefixLine = Lines["prefix"];
export type UsageRecord = Lines["usage"];

/** Checks a line's JSON. `place` names it. Throws ArchiveError. */
export function checkRecord(value: unknown, place: string): ArchiveRecord {
  const kind: unknown = typeof value === "object" && value !== null && "kind" in value ? value.kind : undefined;
  if (typeof kind !== "string" || !Object.hasOwn(LINES, kind))
    throw new ArchiveError(`${place} is no record of a kind that this version knows`);
  const schema: TSchema = LINES[kind as keyof Lines];
  if (!Value.Check(schema, value)) {
    const [error] = Value.Errors(schema, value);
    throw new ArchiveError(`${place}, a record of kind ${kind}, is not valid at ${error?.instancePath || "/"}`);
  }
  return value as ArchiveRecord;
}
