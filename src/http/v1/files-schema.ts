import Type, { type Static } from "typebox";
import { named, strict } from "../common-schema.ts";

export const FileObject = named(
  "FileObject",
  strict(
    {
      id: Type.String(),
      object: Type.Literal("file"),
      bytes: Type.Integer(),
      created_at: Type.Integer({ description: "Unix time in seconds" }),
      filename: Type.String({ description: "As it was uploaded" }),
      purpose: Type.Literal("fine-tune"),
      status: Type.Literal("processed", { description: "It was checked while it arrived" }),
    },
    { description: "A file of examples, as OpenAI's API has it" },
  ),
);
export type FileObject = Static<typeof FileObject>;

/** The ids at a page's ends. */
export const PAGE_ENDS = {
  first_id: Type.Union([Type.String(), Type.Null()], { description: "Of the page; null: it is empty" }),
  last_id: Type.Union([Type.String(), Type.Null()], { description: "What `after` continues from" }),
};

export const FileObjects = named(
  "FileObjects",
  strict({ object: Type.Literal("list"), data: Type.Array(FileObject), ...PAGE_ENDS, has_more: Type.Boolean() }),
);

export const DeletedFile = named(
  "DeletedFile",
  strict({ id: Type.String(), object: Type.Literal("file"), deleted: Type.Boolean() }),
);

export const FileForm = Type.Object(
  {
    file: Type.String({
      format: "binary",
      description: 'JSON lines in UTF-8: `{"prompt": "...", "completion": "..."}` each',
    }),
    purpose: Type.Literal("fine-tune"),
  },
  { unchecked: true, description: "Both parts are needed, in any order." },
);

/** Records of a page; what follows needs `after`. */
const MOST = 100;

/** Query of a list that OpenAI's clients page through. */
export const pageQuery = (what: string) => ({
  limit: Type.Optional(
    Type.Integer({ minimum: 1, maximum: MOST, default: 20, description: `${what} per page; the newest come first` }),
  ),
  after: Type.Optional(Type.String({ maxLength: 64, description: "The last id of the page before" })),
});

export const FilesQuery = strict({
  ...pageQuery("Files"),
  order: Type.Optional(Type.Enum(["asc", "desc"], { default: "desc", description: "asc: the oldest first" })),
  purpose: Type.Optional(Type.String({ description: "Only files of this purpose; all have fine-tune" })),
});

export const FileParams = Type.Object({ file: Type.String({ description: "The file's id" }) });

export const FILE_EXAMPLE: FileObject = {
  id: "file-019b0d2f8c003f7a6c51e2d4",
  object: "file",
  bytes: 140,
  created_at: 1767225600,
  filename: "dates.jsonl",
  purpose: "fine-tune",
  status: "processed",
};

export const FILES_EXAMPLE: Static<typeof FileObjects> = {
  object: "list",
  data: [FILE_EXAMPLE],
  first_id: FILE_EXAMPLE.id,
  last_id: FILE_EXAMPLE.id,
  has_more: false,
};
