import type { ErrorCode } from "../../errors.ts";
import type { PrefixVersion } from "../../prefixes/store.ts";
import type { AppParts, TypedApp } from "../app-parts.ts";
import { ETAG_HEADER, json, PrefixIdParams, problems } from "../common-schema.ts";
import { parsePrefixId } from "./id.ts";
import { actorOf, noted, notedForChange } from "./named.ts";
import { etagOf, writePrecondition } from "./preconditions.ts";
import { documentOf } from "./response.ts";
import {
  DeleteHeaders,
  PREFIX_EXAMPLE,
  PREFIX_VERSION_EXAMPLE,
  PrefixDocument,
  PrefixVersionList,
  RestoreBody,
  type PrefixVersionDocument,
} from "./schema.ts";

const CODES: ErrorCode[] = ["unauthorized", "invalid_prefix_id", "prefix_not_found", "store_unavailable"];

/** Routes for earlier versions of a prefix. */
export function versionRoutes(app: TypedApp, parts: AppParts): void {
  const { prefixes } = parts;
  const tags = ["prefixes"];
  app.get(
    "/prefixes/:id/versions",
    {
      config: { access: "user" },
      schema: {
        operationId: "listPrefixVersions",
        tags,
        summary: "The versions of a prefix",
        description:
          "The current one, then those that it and its predecessors replaced, the last one first, as many as `--prefix-versions` keeps and `max_prefix_bytes` has room for. For the owner and the users in `readable_by`.",
        params: PrefixIdParams,
        response: {
          200: json("The versions", PrefixVersionList, {
            headers: ETAG_HEADER,
            example: { versions: [PREFIX_VERSION_EXAMPLE] },
          }),
          ...problems(...CODES, "prefix_not_readable"),
        },
      },
    },
    async (request, reply) => {
      const key = noted(request, parsePrefixId(request.params.id, request.principal.user));
      const versions = await prefixes.versions(key, request.principal.user);
      reply.header("etag", etagOf(versions[0]!.digest));
      return { versions: versions.map((version, i) => versionDocument(version, i === 0)) };
    },
  );

  app.post(
    "/prefixes/:id/restore",
    {
      config: { access: "user", audit: "prefix.restore" },
      schema: {
        operationId: "restorePrefix",
        tags,
        summary: "Put back an earlier version of a prefix",
        description:
          "The version becomes the current one, and the current one an earlier one. Sharing stays as it is. Running requests end on the version that they began with.",
        params: PrefixIdParams,
        headers: DeleteHeaders,
        body: RestoreBody,
        response: {
          200: json("The prefix", PrefixDocument, { headers: ETAG_HEADER, example: PREFIX_EXAMPLE }),
          ...problems(
            ...CODES,
            "prefix_not_owned",
            "unknown_field",
            "invalid_parameter",
            "version_not_found",
            "prefix_base_mismatch",
            "precondition_failed",
            "removed",
            "store_full",
            "body_too_large",
            "unsupported_media_type",
          ),
        },
      },
    },
    async (request, reply) => {
      const key = await notedForChange(request, parsePrefixId(request.params.id, request.principal.user), prefixes);
      const precondition = writePrecondition(request.headers);
      const meta = await prefixes.restore(key, request.body.digest, actorOf(request), precondition);
      request.audit.digest = meta.digest;
      reply.header("etag", etagOf(meta.digest));
      return documentOf(meta, key.user, parts);
    },
  );
}

function versionDocument(version: PrefixVersion, current: boolean): PrefixVersionDocument {
  const { digest, kind, length, bytes, base, files, updatedAt, updatedBy = null } = version;
  return {
    digest,
    current,
    kind,
    virtual_tokens: length,
    bytes,
    base,
    files: { ...files },
    updated_at: updatedAt,
    updated_by: updatedBy,
  };
}
