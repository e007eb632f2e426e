import type { FastifyRequest } from "fastify";
import { PrefixdError, type ErrorCode } from "../../errors.ts";
import { createApiKey, MAX_USER_KEYS } from "../../users/api-key.ts";
import { changesOf } from "../../observability/audit.ts";
import { NO_LIMITS, type User } from "../../users/types.ts";
import { checkUserId, noSuchUser } from "../../users/user-id.ts";
import type { AppParts, TypedApp } from "../app-parts.ts";
import { UNREAD_BODY, empty, json, problems } from "../common-schema.ts";
import {
  CreateKeyBody,
  CreateUserBody,
  KeyParams,
  NEW_KEY_EXAMPLE,
  NewKey,
  PatchUserBody,
  RECEIPT_EXAMPLE,
  Receipt,
  RemoveQuery,
  USER_EXAMPLE,
  UserDetail,
  UserDocument,
  UserList,
  UserParams,
  UsersQuery,
} from "./schema.ts";
import { DEFAULT_LIMIT, inBatches, pageOf } from "../page.ts";
import { sumsDocument, usagePage } from "../usage/route.ts";
import { USAGE_EXAMPLE, UsageDocument, UsageQuery } from "../usage/schema.ts";

const CODES: ErrorCode[] = ["unauthorized", "forbidden", "store_unavailable"];
const ONE: ErrorCode[] = [...CODES, "invalid_user_id", "user_not_found"];
const BODY: ErrorCode[] = [
  "unknown_field",
  "invalid_parameter",
  "body_too_large",
  "unsupported_media_type",
  "store_full",
];
const USAGE_DAYS = 31;
const DAY_MS = 86_400_000;

/** Routes for users and their keys. */
export function adminRoutes(app: TypedApp, parts: AppParts): void {
  const { users, removal, revocation, prefixes } = parts;
  const tags = ["users"];
  const access = "admin" as const;
  const onRequest = async (): Promise<void> => {
    if (!parts.auth.keyed)
      throw new PrefixdError(
        "forbidden",
        "This server runs without keys, so it has no users: start it with --admin-key-file or PREFIXD_ADMIN_KEY.",
      );
  };
  const idOf = (request: FastifyRequest, id: string): string => {
    checkUserId(id);
    request.audit.target = id;
    return id;
  };

  app.post(
    "/admin/users",
    {
      onRequest,
      config: { access, audit: "user.create" },
      schema: {
        operationId: "createUser",
        tags,
        summary: "Create a user",
        description: "A user has no key at first.",
        body: CreateUserBody,
        response: {
          201: json("Created", UserDocument, { example: USER_EXAMPLE }),
          ...problems(...CODES, ...BODY, "invalid_user_id", "user_exists"),
        },
      },
    },
    async (request, reply) => {
      const { weight = 1, limits } = request.body;
      const now = new Date().toISOString();
      const user: User = {
        id: idOf(request, request.body.id),
        weight,
        limits: { ...NO_LIMITS, ...limits },
        createdAt: now,
        updatedAt: now,
      };
      await removal.readmitUser(user.id);
      await users.createUser(user);
      request.audit.changes = changesOf({}, changeable(user));
      reply.code(201).header("location", `/admin/users/${user.id}`);
      return userDocument(user);
    },
  );

  app.get(
    "/admin/users",
    {
      onRequest,
      config: { access, audit: "user.list" },
      schema: {
        operationId: "listUsers",
        tags,
        summary: "List users",
        description: "In ascending order of id.",
        querystring: UsersQuery,
        response: {
          200: json("One page", UserList, { example: { users: [USER_EXAMPLE], next: null } }),
          ...problems(...CODES, "unknown_field", "invalid_parameter"),
        },
      },
    },
    async (request) => {
      const { limit = DEFAULT_LIMIT, after } = request.query;
      const found = inBatches(
        (batch) => users.listUsers(batch),
        after,
        limit,
        ({ id }) => id,
      );
      const { page, next } = await pageOf(found, limit, userDocument, ({ id }) => id);
      return { users: page, next };
    },
  );

  app.get(
    "/admin/users/:user",
    {
      onRequest,
      config: { access, audit: "user.show" },
      schema: {
        operationId: "getUser",
        tags,
        summary: "A user with keys, prefixes and usage",
        description: "`usage` is the total of the last 31 days.",
        params: UserParams,
        response: { 200: json("The user", UserDetail), ...problems(...ONE) },
      },
    },
    async (request) => {
      const id = idOf(request, request.params.user);
      const user = await users.getUser(id);
      if (user === null) throw noSuchUser();
      const from = new Date(Date.now() - (USAGE_DAYS - 1) * DAY_MS).toISOString().slice(0, 10);
      const [keys, usage, held] = await Promise.all([
        users.listKeys(id),
        users.usageSums(id, { from }),
        prefixes.held(id),
      ]);
      return {
        ...userDocument(user),
        keys: keys.map((key) => ({ key_id: key.id, created_at: key.createdAt, expires_at: key.expiresAt })),
        prefixes: { count: held.prefixes, bytes: held.bytes },
        usage: sumsDocument(usage),
      };
    },
  );

  app.get(
    "/admin/users/:user/usage",
    {
      onRequest,
      config: { access, audit: "user.usage" },
      schema: {
        operationId: "getUserUsage",
        tags,
        summary: "A user's usage, by day and prefix",
        description:
          "As `GET /usage`. Also of a user who was removed with `keep_usage`; without a record and any usage it is `user_not_found`.",
        params: UserParams,
        querystring: UsageQuery,
        response: {
          200: json("One page", UsageDocument, { example: USAGE_EXAMPLE }),
          ...problems(...ONE, "unknown_field", "invalid_parameter"),
        },
      },
    },
    async (request) => {
      const id = idOf(request, request.params.user);
      const page = await usagePage(users, id, request.query);
      if (Object.values(page.totals).every((sum) => sum === 0) && (await users.getUser(id)) === null)
        throw noSuchUser();
      return page;
    },
  );

  app.patch(
    "/admin/users/:user",
    {
      onRequest,
      config: { access, audit: "user.patch" },
      schema: {
        operationId: "patchUser",
        tags,
        summary: "Change a user's weight or limits, suspend or resume the user",
        description:
          "Fields that are absent stay as they are. When `suspended: true` is answered, no replica works for the user any more: running requests have ended as by a removal. Nothing is deleted; prefixes that the user shares still serve others. Can be repeated after an error.",
        params: UserParams,
        body: PatchUserBody,
        response: { 200: json("Changed", UserDocument, { example: USER_EXAMPLE }), ...problems(...ONE, ...BODY) },
      },
    },
    async (request) => {
      const id = idOf(request, request.params.user);
      const { before, user } = await revocation.patchUser(id, request.body, new Date().toISOString());
      request.audit.changes = changesOf(changeable(before), changeable(user));
      return userDocument(user);
    },
  );

  app.delete(
    "/admin/users/:user",
    {
      onRequest,
      config: { access, audit: "user.remove" },
      schema: {
        operationId: "removeUser",
        tags,
        summary: "Remove a user with all keys, prefixes and usage",
        description: "When this returns, no replica serves the user any more. Can be repeated after an error.",
        params: UserParams,
        querystring: RemoveQuery,
        response: {
          200: json("The receipt", Receipt, { example: RECEIPT_EXAMPLE }),
          ...problems(...ONE, ...UNREAD_BODY, "unknown_field", "invalid_parameter", "store_full"),
        },
      },
    },
    async (request) =>
      removal.removeUser(idOf(request, request.params.user), { keepUsage: request.query.keep_usage === "true" }),
  );

  app.post(
    "/admin/users/:user/keys",
    {
      onRequest,
      config: { access, audit: "key.create" },
      // The body is optional.
      preValidation: async (request) => void (request.body ??= {}),
      schema: {
        operationId: "createKey",
        tags,
        summary: "Create a key",
        description: `The key is shown in this answer only. To rotate keys, create a second one, then delete the first. A user has ${MAX_USER_KEYS} at most; when these are used up, expired ones are deleted.`,
        params: UserParams,
        body: CreateKeyBody,
        response: {
          201: json("The key", NewKey, {
            example: NEW_KEY_EXAMPLE,
            headers: { "Cache-Control": { type: "string", description: "no-store" } },
          }),
          ...problems(...ONE, ...BODY, "too_many_keys"),
        },
      },
    },
    async (request, reply) => {
      const user = idOf(request, request.params.user);
      const expiresAt = expiryOf(request.body);
      const { id, key, hash } = createApiKey();
      await users.putKey({ id, user, hash, createdAt: new Date().toISOString(), expiresAt });
      request.audit.target = `${user}/${id}`;
      request.audit.changes = changesOf({}, { expires_at: expiresAt });
      reply.code(201).header("cache-control", "no-store");
      return { key_id: id, key, expires_at: expiresAt };
    },
  );

  app.delete(
    "/admin/users/:user/keys/:key",
    {
      onRequest,
      config: { access, audit: "key.delete" },
      schema: {
        operationId: "deleteKey",
        tags,
        summary: "Delete a key",
        description:
          "When this returns, no replica accepts it, and requests that came with it have ended: with finish_reason `removed`, or with 410 if nothing had been sent. Can be repeated after an error.",
        params: KeyParams,
        response: { 204: empty("Deleted"), ...problems(...ONE, ...UNREAD_BODY, "key_not_found", "store_full") },
      },
    },
    async (request, reply) => {
      const user = idOf(request, request.params.user);
      const { key } = request.params;
      // Validate before recording it anywhere: it may be a whole key by mistake.
      const id = /^[0-9a-f]{16}$/.test(key) ? key : null;
      if (id !== null) request.audit.target = `${user}/${id}`;
      if (id === null || !(await revocation.deleteKey(user, id)))
        throw new PrefixdError("key_not_found", "The user has no key with this id.");
      return reply.code(204).send();
    },
  );
}

function userDocument({ id, weight, limits, suspended, createdAt, updatedAt }: User): UserDocument {
  return {
    id,
    weight,
    limits: { ...limits },
    suspended: suspended === true,
    created_at: createdAt,
    updated_at: updatedAt,
  };
}

/** What an administrator can change of a user, for the audit log. */
const changeable = ({ weight, limits, suspended }: User): Record<string, unknown> => ({
  weight,
  limits,
  suspended: suspended === true,
});

function expiryOf({ expires_at }: CreateKeyBody): string | null {
  if (expires_at === undefined || expires_at === null) return null;
  const at = /^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}:\d{2})$/.test(expires_at)
    ? Date.parse(expires_at)
    : NaN;
  if (Number.isNaN(at))
    throw new PrefixdError(
      "invalid_parameter",
      "expires_at must be a time with a time zone, such as 2030-01-31T12:00:00Z.",
    );
  if (at <= Date.now()) throw new PrefixdError("invalid_parameter", "expires_at must be in the future.");
  return new Date(at).toISOString();
}
