import type { FastifyRequest } from "fastify";
import type { ErrorCode } from "../../errors.ts";
import { changesOf } from "../../observability/audit.ts";
import type { PrefixKey, PrefixMeta } from "../../prefixes/store.ts";
import type { AppParts, TypedApp } from "../app-parts.ts";
import type { BodyWatch } from "../connections/body-watch.ts";
import { etagOf, notModified, writePrecondition } from "./preconditions.ts";
import { parsePrefixId, prefixIdOf } from "./id.ts";
import { prefixPage } from "./list.ts";
import { noted, notedForChange, removePrefix } from "./named.ts";
import { DEFAULT_LIMIT } from "../page.ts";
import type { PromptReader } from "../generate/prompts.ts";
import { ETAG_HEADER, PrefixIdParams, UNREAD_BODY, empty, json, problems } from "../common-schema.ts";
import {
  DeleteHeaders,
  FileList,
  FileParams,
  ListQuery,
  PREFIX_ENTRY_EXAMPLE,
  PREFIX_EXAMPLE,
  PrefixDocument,
  PrefixList,
  ReadHeaders,
  SharingBody,
} from "./schema.ts";
import { abortOnDisconnect, answered } from "../connections/response-end.ts";
import { checkSharing, checkUsersExist } from "./sharing-body.ts";
import { documentOf, entryOf, sendFile } from "./response.ts";
import { versionRoutes } from "./versions-route.ts";
import { registerRoutes } from "./register-route.ts";
import { DOWNLOADS, downloadsBusy, TransferGate } from "./transfer-gate.ts";

const READ_CODES: ErrorCode[] = ["unauthorized", "invalid_prefix_id", "prefix_not_found", "store_unavailable"];
/** Errors of a change, which only the owner may make. */
const OWNER_CODES: ErrorCode[] = [...READ_CODES, "prefix_not_owned"];

export function prefixRoutes(app: TypedApp, parts: AppParts, reader: PromptReader, bodies: BodyWatch): void {
  const { prefixes } = parts;
  const downloads = new TransferGate(DOWNLOADS, downloadsBusy);
  const tags = ["prefixes"];

  const keyOf = (request: FastifyRequest, id: string): PrefixKey =>
    noted(request, parsePrefixId(id, request.principal.user));
  const ownKeyOf = (request: FastifyRequest, id: string): Promise<PrefixKey> =>
    notedForChange(request, parsePrefixId(id, request.principal.user), prefixes);
  registerRoutes(app, parts, reader, bodies);
  app.get(
    "/prefixes",
    {
      config: { access: "user" },
      schema: {
        operationId: "listPrefixes",
        tags,
        summary: "List prefixes",
        description:
          "The prefixes you may use: first your own, in ascending order of name, then those shared with you, in ascending order of `user/name`.",
        querystring: ListQuery,
        response: {
          200: json("One page", PrefixList, { example: { prefixes: [PREFIX_ENTRY_EXAMPLE], next: null } }),
          ...problems("unauthorized", "unknown_field", "invalid_parameter", "invalid_prefix_id", "store_unavailable"),
        },
      },
    },
    async (request) => {
      const { limit = DEFAULT_LIMIT, owner = "all", after } = request.query;
      const { user } = request.principal;
      return prefixPage(prefixes, user, { owner, limit, ...(after === undefined ? {} : { after }) }, (prefix) =>
        entryOf(prefix, user, parts),
      );
    },
  );

  app.get(
    "/prefixes/:id",
    {
      config: { access: "user" },
      schema: {
        operationId: "getPrefix",
        tags,
        summary: "Show a prefix",
        description: "Of a prefix that another user shares, without the lists of those it is shared with.",
        params: PrefixIdParams,
        headers: ReadHeaders,
        response: {
          200: json("The prefix", PrefixDocument, { headers: ETAG_HEADER, example: PREFIX_EXAMPLE }),
          304: empty("Not changed", ETAG_HEADER),
          ...problems(...READ_CODES, "invalid_parameter"),
        },
      },
    },
    async (request, reply) => {
      const meta = await prefixes.info(keyOf(request, request.params.id), request.principal.user);
      reply.header("etag", etagOf(meta.digest));
      return notModified(request.headers["if-none-match"], meta.digest)
        ? reply.code(304).send()
        : documentOf(meta, request.principal.user, parts);
    },
  );

  app.get(
    "/prefixes/:id/adapter",
    {
      config: { access: "user" },
      schema: {
        operationId: "listAdapterFiles",
        tags,
        summary: "The uploaded files",
        description:
          "Names, sizes and addresses: PEFT's two files, or a hard prompt's `prompt.json`. For the owner and the users in `readable_by`.",
        params: PrefixIdParams,
        response: {
          200: json("The files", FileList, {
            headers: ETAG_HEADER,
            example: {
              files: [{ name: "adapter_config.json", bytes: 731, url: "/prefixes/intent/adapter/adapter_config.json" }],
            },
          }),
          ...problems(...READ_CODES, "prefix_not_readable"),
        },
      },
    },
    async (request, reply) => {
      const meta = await prefixes.readable(keyOf(request, request.params.id), request.principal.user);
      reply.header("etag", etagOf(meta.digest));
      const url = (file: string): string =>
        `/prefixes/${encodeURIComponent(prefixIdOf(meta, request.principal.user))}/adapter/${encodeURIComponent(file)}`;
      return { files: Object.entries(meta.files).map(([name, bytes]) => ({ name, bytes, url: url(name) })) };
    },
  );

  app.get(
    "/prefixes/:id/adapter/:file",
    {
      config: { access: "user" },
      schema: {
        operationId: "getAdapterFile",
        tags,
        summary: "One uploaded file, byte for byte",
        description:
          "For the owner and the users in `readable_by`. If the prefix is replaced during the download, the connection is closed before the end.",
        params: FileParams,
        response: {
          200: {
            description: "The file",
            headers: ETAG_HEADER,
            content: { "application/octet-stream": { schema: { type: "string", format: "binary" } } },
          },
          ...problems(...READ_CODES, "prefix_not_readable", "not_found", "prefix_damaged", "downloads_busy"),
        },
      },
    },
    async (request, reply) => {
      const { file } = request.params;
      const key = keyOf(request, request.params.id);
      await downloads.run(request.principal.user, abortOnDisconnect(reply).signal, async () => {
        const over = answered(reply);
        sendFile(reply, file, await prefixes.openFile(key, file, request.principal.user));
        await over;
      });
      return reply;
    },
  );

  app.patch(
    "/prefixes/:id",
    {
      config: { access: "user", audit: "prefix.share" },
      schema: {
        operationId: "patchPrefix",
        tags,
        summary: "Share a prefix, or stop sharing it",
        description:
          "Others use it as `user/name`. To use a prefix means to send requests with it; only users in `readable_by` can download its files. Users who lose access get 404 from then on; their running requests finish.",
        params: PrefixIdParams,
        headers: DeleteHeaders,
        body: SharingBody,
        response: {
          200: json("Changed", PrefixDocument, { headers: ETAG_HEADER, example: PREFIX_EXAMPLE }),
          ...problems(
            ...OWNER_CODES,
            "unknown_field",
            "invalid_parameter",
            "invalid_user_id",
            "unknown_users",
            "precondition_failed",
            "store_full",
            "body_too_large",
            "unsupported_media_type",
          ),
        },
      },
    },
    async (request, reply) => {
      const key = await ownKeyOf(request, request.params.id);
      checkSharing(request.body);
      // Without keys there is one user, with full access.
      if (parts.auth.keyed) await checkUsersExist(request.body, parts.users);
      // Read just before: another change at the same moment may come in between.
      const before = await prefixes.info(key).catch(() => null);
      const meta = await prefixes.patch(key, request.body, writePrecondition(request.headers));
      request.audit.digest = meta.digest;
      request.audit.changes = changesOf(before === null ? {} : sharedFields(before), sharedFields(meta));
      reply.header("etag", etagOf(meta.digest));
      return documentOf(meta, key.user, parts);
    },
  );

  app.delete(
    "/prefixes/:id",
    {
      config: { access: "user", audit: "prefix.remove" },
      schema: {
        operationId: "deletePrefix",
        tags,
        summary: "Remove a prefix",
        description:
          "When this returns, no request uses the prefix any more: running ones end with finish_reason `removed`, or with 410 if nothing had been sent.",
        params: PrefixIdParams,
        headers: DeleteHeaders,
        response: {
          204: empty("Removed"),
          ...problems(...OWNER_CODES, ...UNREAD_BODY, "invalid_parameter", "precondition_failed", "store_full"),
        },
      },
    },
    async (request, reply) => {
      const key = await ownKeyOf(request, request.params.id);
      await removePrefix(parts, key, writePrecondition(request.headers));
      return reply.code(204).send();
    },
  );
  versionRoutes(app, parts);
}

/** Whom a prefix is shared with, for the audit log. */
const sharedFields = ({ visibility = "private", shared_with = [], readable_by = [] }: PrefixMeta) => ({
  visibility,
  shared_with,
  readable_by,
});
