import Type, { type Static } from "typebox";
import type { ErrorCode } from "../../errors.ts";
import { named, strict } from "../common-schema.ts";
import { NextPage, pageLimit } from "../page.ts";

const PrefixWarning = named(
  "PrefixWarning",
  strict({
    code: Type.Enum(["prefix_base_name_mismatch"] satisfies ErrorCode[], {
      description: "For programs: the error code that this would be with --require-base-name",
    }),
    detail: Type.String({ description: "For people" }),
  }),
);

const listed = {
  id: Type.String(),
  kind: Type.String({ description: "PEFT's type, such as PREFIX_TUNING, or HARD_PROMPT" }),
  digest: Type.String({ description: "SHA-256 of the compiled prefix; the ETag without quotes" }),
  virtual_tokens: Type.Integer(),
  bytes: Type.Integer({ description: "Size of the compiled keys and values" }),
  base: Type.String({ description: "Fingerprint of the base model it was compiled for" }),
  base_model_name_or_path: Type.Union([Type.String(), Type.Null()], {
    description:
      "The base model named in the adapter; null: it names none, it was registered by an older version, or you may not read its files",
  }),
  revision: Type.Union([Type.String(), Type.Null()], { description: "That model's revision on the hub" }),
  warnings: Type.Array(PrefixWarning, { description: "Warnings about the prefix" }),
  created_at: Type.String({ format: "date-time" }),
  updated_at: Type.String({ format: "date-time" }),
  files: Type.Record(Type.String(), Type.Integer(), { description: "The uploaded files: name and bytes" }),
  resident: Type.Union([Type.Boolean(), Type.Null()], {
    description:
      "Whether it is in this server's memory since a request used it; else the next request loads it from the store. null: only its owner may know",
  }),
  access: Type.Enum(["owner", "read", "use"], {
    description: "What you may do with it. owner: everything; read: use and download it; use: send requests with it",
  }),
  visibility: Type.Enum(["private", "shared"], {
    description: "Who may send requests with it. private: the owner and the users of the two lists; shared: every user",
  }),
};

export const PrefixEntry = named(
  "PrefixEntry",
  strict(listed, {
    description: "A registered prefix in a list; `GET /prefixes/{id}` also shows its owner whom it is shared with",
  }),
);
export type PrefixEntry = Static<typeof PrefixEntry>;

export const PrefixDocument = named(
  "Prefix",
  strict(
    {
      ...listed,
      shared_with: Type.Array(Type.String(), {
        description: "Users who may send requests with it; shown to the owner only",
      }),
      readable_by: Type.Array(Type.String(), {
        description: "Users who may send requests with it and download it; shown to the owner only",
      }),
    },
    { description: "A registered prefix" },
  ),
);
export type PrefixDocument = Static<typeof PrefixDocument>;

const users = (description: string) => Type.Optional(Type.Array(Type.String(), { maxItems: 1000, description }));

export const SharingBody = named(
  "PrefixSharing",
  strict(
    {
      visibility: Type.Optional(Type.Enum(["private", "shared"])),
      shared_with: users(
        "Users who may send requests with it, each named once. Replaces the whole list: users who are not named lose access",
      ),
      readable_by: users(
        "Users who may send requests with it and download its files, each named once. Replaces the whole list",
      ),
    },
    {
      minProperties: 1,
      description: "Who else may use a prefix, as `user/name`. Absent fields stay unchanged.",
    },
  ),
);
export type SharingBody = Static<typeof SharingBody>;

export const HardPromptBody = named(
  "HardPrompt",
  strict(
    {
      text: Type.Optional(Type.String({ minLength: 1, description: "Either this or `token_ids`" })),
      token_ids: Type.Optional(Type.Array(Type.Integer({ minimum: 0 }), { minItems: 1 })),
    },
    { description: "A hard prompt: compiled once to keys and values, with the effect of preceding every prompt" },
  ),
);
export type HardPromptBody = Static<typeof HardPromptBody>;

/** For openapi.yaml only: the body is read part by part, see upload.ts. */
export const AdapterForm = named(
  "AdapterUpload",
  Type.Object(
    {
      adapter_config: Type.String({ format: "binary", description: "The file adapter_config.json" }),
      adapter_model: Type.String({ format: "binary", description: "The file adapter_model.safetensors" }),
    },
    {
      unchecked: true,
      description:
        "PEFT's two files, recognised by file name, or by field name where a file has another name or none. Other files are ignored.",
    },
  ),
);

export const ListQuery = strict({
  limit: pageLimit("Prefixes"),
  after: Type.Optional(
    Type.String({ description: "Only prefixes whose id comes after this one: `next` of the previous page" }),
  ),
  owner: Type.Optional(
    Type.Enum(["me", "others", "all"], {
      default: "all",
      description: "me: your own prefixes; others: those shared with you; all: both",
    }),
  ),
});

export const PrefixList = named("PrefixList", strict({ prefixes: Type.Array(PrefixEntry), next: NextPage }));

export const FileList = named(
  "AdapterFiles",
  strict({ files: Type.Array(strict({ name: Type.String(), bytes: Type.Integer(), url: Type.String() })) }),
);
export const FileParams = Type.Object({
  id: Type.String({ description: "The prefix's id: its name" }),
  file: Type.String({ description: "A name from the list of files" }),
});

const PrefixVersionDocument = named(
  "PrefixVersion",
  strict({
    digest: Type.String({ description: "As in `GET /prefixes/{id}`: names the version" }),
    current: Type.Boolean({ description: "Whether requests use it" }),
    kind: listed.kind,
    virtual_tokens: Type.Integer(),
    bytes: listed.bytes,
    base: listed.base,
    files: listed.files,
    updated_at: Type.String({ format: "date-time", description: "When it was uploaded, or put back" }),
    updated_by: Type.Union([Type.String(), Type.Null()], {
      description:
        "By whom: a key's id, an admin key's as `sha256:1a2b3c4d`, or `local` where the server needs no key; null: by the server itself, or an older version that did not note it",
    }),
  }),
);
export type PrefixVersionDocument = Static<typeof PrefixVersionDocument>;
export const PrefixVersionList = named("PrefixVersionList", strict({ versions: Type.Array(PrefixVersionDocument) }));
export const RestoreBody = named(
  "PrefixRestore",
  strict({
    digest: Type.String({ pattern: "^[0-9a-f]{64}$", description: "Of a version in `GET /prefixes/{id}/versions`" }),
  }),
);

export const WriteHeaders = Type.Object({
  "if-match": Type.Optional(
    Type.String({ description: "Only if the prefix has one of these ETags, or exists at all: `*`" }),
  ),
  "if-none-match": Type.Optional(Type.String({ description: "`*`: only if the prefix does not exist yet" })),
});
export const DeleteHeaders = Type.Object({ "if-match": WriteHeaders.properties["if-match"] });
export const ReadHeaders = Type.Object({
  "if-none-match": Type.Optional(Type.String({ description: "304 if the prefix has one of these ETags" })),
});

export const PREFIX_ENTRY_EXAMPLE: PrefixEntry = {
  id: "intent",
  kind: "PREFIX_TUNING",
  digest: "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
  virtual_tokens: 10,
  bytes: 81920,
  base: "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
  base_model_name_or_path: "openai-community/gpt2",
  revision: null,
  warnings: [],
  created_at: "2025-01-31T12:00:00.000Z",
  updated_at: "2025-01-31T12:00:00.000Z",
  files: { "adapter_config.json": 731, "adapter_model.safetensors": 82016 },
  resident: true,
  access: "owner",
  visibility: "private",
};
export const PREFIX_EXAMPLE: PrefixDocument = { ...PREFIX_ENTRY_EXAMPLE, shared_with: [], readable_by: [] };
export const PREFIX_VERSION_EXAMPLE: PrefixVersionDocument = {
  digest: PREFIX_EXAMPLE.digest,
  current: true,
  kind: PREFIX_EXAMPLE.kind,
  virtual_tokens: 10,
  bytes: 81920,
  base: PREFIX_EXAMPLE.base,
  files: PREFIX_EXAMPLE.files,
  updated_at: PREFIX_EXAMPLE.updated_at,
  updated_by: "0123456789abcdef",
};
