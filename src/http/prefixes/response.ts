import { Readable } from "node:stream";
import type { FastifyReply } from "fastify";
import { baseNameDiffers } from "../../prefixes/base-name.ts";
import type { OpenedFile, PrefixRegistry } from "../../prefixes/registry-types.ts";
import { listedFor } from "../../prefixes/sharing.ts";
import type { ListedPrefix, PrefixMeta } from "../../prefixes/store.ts";
import { prefixIdOf } from "./id.ts";
import { etagOf } from "./preconditions.ts";
import type { PrefixDocument, PrefixEntry } from "./schema.ts";

/** What a document says beyond the prefix's own record. */
export interface ShownBy {
  /** The served base model's name. */
  readonly modelName: string;
  readonly prefixes: Pick<PrefixRegistry, "isResident">;
}

/** The prefix as the requesting user may see it. */
export function entryOf(prefix: ListedPrefix, user: string, { modelName, prefixes }: ShownBy): PrefixEntry {
  const {
    visibility = "private",
    kind,
    digest,
    length: virtual_tokens,
    bytes,
    base,
    createdAt: created_at,
    updatedAt: updated_at,
    files,
    access,
  } = prefix;
  // The base name is in the files, which the user may not read; it may be one of the owner's paths.
  const {
    baseName: base_model_name_or_path = null,
    baseRevision: revision = null,
  }: Pick<PrefixMeta, "baseName" | "baseRevision"> = access === "use" ? {} : prefix;
  const mismatch = baseNameDiffers(base_model_name_or_path, modelName);
  const warnings = mismatch === null ? [] : [{ code: "prefix_base_name_mismatch" as const, detail: mismatch }];
  return {
    id: prefixIdOf(prefix, user),
    kind,
    digest,
    virtual_tokens,
    bytes,
    base,
    base_model_name_or_path,
    revision,
    warnings,
    created_at,
    updated_at,
    files: { ...files },
    // Of others' it would tell whether somebody uses it.
    resident: access === "owner" ? prefixes.isResident(prefix) : null,
    access,
    visibility,
  };
}

/** The same, with the sharing lists if the user is the owner. */
export function documentOf(meta: PrefixMeta, user: string, by: ShownBy): PrefixDocument {
  const { shared_with = [], readable_by = [] } = meta.user === user ? meta : {};
  return {
    ...entryOf(listedFor(user, meta), user, by),
    shared_with: [...shared_with],
    readable_by: [...readable_by],
  };
}

/** Reads at the client's pace: at most two chunks of an unread file are in memory. */
export function sendFile(reply: FastifyReply, name: string, { meta, bytes, chunks }: OpenedFile): FastifyReply {
  reply
    .header("etag", etagOf(meta.digest))
    .header("content-disposition", `attachment; filename="${name.replace(/[^A-Za-z0-9._-]/g, "_")}"`)
    .header("content-length", bytes)
    .type("application/octet-stream");
  return reply.send(Readable.from(reply.request.method === "HEAD" ? [] : chunks, { highWaterMark: 1 }));
}
