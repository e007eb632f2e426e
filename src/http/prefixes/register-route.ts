/** PUT: registering prefixes. One operation for each kind of body, and one for both. */
import type { FastifyReply, FastifyRequest } from "fastify";
import { PrefixdError, type ErrorCode } from "../../errors.ts";
import type { PrefixUpload } from "../../prefixes/registry-types.ts";
import type { PrefixQuota } from "../../prefixes/store.ts";
import { unauthorized } from "../../users/authenticator.ts";
import { isBuiltInUser } from "../../users/user-id.ts";
import { refuseRevoked } from "../access.ts";
import { abortOnDisconnect } from "../connections/response-end.ts";
import type { AppParts, TypedApp } from "../app-parts.ts";
import { ETAG_HEADER, PrefixIdParams, json, problems } from "../common-schema.ts";
import type { BodyWatch } from "../connections/body-watch.ts";
import type { PromptReader } from "../generate/prompts.ts";
import { parsePrefixId } from "./id.ts";
import { actorOf, notedForChange } from "./named.ts";
import { etagOf, writePrecondition } from "./preconditions.ts";
import { documentOf } from "./response.ts";
import { AdapterForm, HardPromptBody, PREFIX_EXAMPLE, PrefixDocument, WriteHeaders } from "./schema.ts";
import { TransferGate, type Place } from "./transfer-gate.ts";
import { readAdapter, readHardPrompt } from "./upload.ts";

const CODES: ErrorCode[] = [
  "unauthorized",
  "prefix_not_found",
  "prefix_not_owned",
  "quota_exceeded",
  "invalid_prefix_id",
  "invalid_parameter",
  "uploads_busy",
  "precondition_failed",
  "prefix_base_mismatch",
  "body_too_large",
  "unsupported_media_type",
  "prefix_overflows",
  "prefix_too_long",
  "removed",
  "token_rate_exceeded",
  "queue_timeout",
  "draining",
  "model_failed",
  "device_lost",
  "store_unavailable",
  "store_full",
];
/** Errors of PEFT's files. */
const ADAPTER_CODES: ErrorCode[] = [
  "upload_incomplete",
  "upload_stalled",
  "request_timeout",
  "prefix_base_name_mismatch",
  "adapter_config_invalid",
  "adapter_type_unsupported",
  "adapter_shape_mismatch",
  "safetensors_invalid",
  "prefix_not_finite",
];
/** Errors of a hard prompt's text or ids. */
const PROMPT_CODES: ErrorCode[] = ["unknown_field", "empty_prompt", "invalid_token_id", "context_exceeded"];

const responsesWith = (...codes: ErrorCode[]): object => ({
  200: json("Replaced", PrefixDocument, { headers: ETAG_HEADER, example: PREFIX_EXAMPLE }),
  201: json("Registered", PrefixDocument, {
    headers: { ...ETAG_HEADER, Location: { type: "string", description: "Its path" } },
    example: PREFIX_EXAMPLE,
  }),
  ...problems(...CODES, ...codes),
});
const FORM = { "multipart/form-data": { schema: AdapterForm } };
const PROMPT = { "application/json": { schema: HardPromptBody } };
const RUNNING = "Running requests keep the version they started with.";

type Body = HardPromptBody | null | undefined;

export function registerRoutes(app: TypedApp, parts: AppParts, reader: PromptReader, bodies: BodyWatch): void {
  const { prefixes } = parts;
  const uploads = new TransferGate(parts.uploads);

  /** Only users with a record have quotas. */
  const quotaOf = async (user: string): Promise<PrefixQuota | undefined> => {
    if (isBuiltInUser(user)) return undefined;
    const record = await parts.users.getUser(user);
    // The user was removed while its key was still cached for a second: nothing of theirs may be created again.
    if (record === null) throw unauthorized();
    return record.limits;
  };

  const adapterOf = (request: FastifyRequest, place: Place): Promise<PrefixUpload> => {
    if (!request.isMultipart())
      throw new PrefixdError("unsupported_media_type", "Send multipart/form-data with PEFT's two files.");
    return readAdapter(request, parts, bodies, place);
  };
  const promptOf = (body: Body): Promise<PrefixUpload> => {
    if (body === undefined || body === null)
      throw new PrefixdError("unsupported_media_type", "Send JSON with a hard prompt: its text or its token_ids.");
    return readHardPrompt(body, reader);
  };
  const eitherOf = (request: FastifyRequest, place: Place): Promise<PrefixUpload> => {
    if (!request.isMultipart() && (request.body === undefined || request.body === null))
      throw new PrefixdError(
        "unsupported_media_type",
        "Send multipart/form-data with PEFT's two files, or JSON with a hard prompt.",
      );
    return request.isMultipart() ? adapterOf(request, place) : promptOf(request.body as Body);
  };

  const register = async (
    request: FastifyRequest,
    reply: FastifyReply,
    id: string,
    read: (place: Place) => Promise<PrefixUpload>,
  ): Promise<PrefixDocument> => {
    const { user } = request.principal;
    const key = await notedForChange(request, parsePrefixId(id, user), prefixes);
    const precondition = writePrecondition(request.headers);
    const { signal } = abortOnDisconnect(reply);
    const { meta, created } = await uploads.run(key.user, signal, async (place) => {
      const upload = await read(place);
      await refuseRevoked(parts.auth, request);
      const quota = await quotaOf(key.user);
      return prefixes.register(key, upload, { precondition, quota, signal, by: actorOf(request) });
    });
    request.audit.digest = meta.digest;
    reply.code(created ? 201 : 200).header("etag", etagOf(meta.digest));
    if (created) reply.header("location", `/prefixes/${encodeURIComponent(meta.name)}`);
    return documentOf(meta, user, parts);
  };

  const config = { access: "user", audit: "prefix.register" } as const;
  const common = { tags: ["prefixes"], params: PrefixIdParams, headers: WriteHeaders };
  app.put(
    "/prefixes/:id",
    {
      config,
      schema: {
        ...common,
        operationId: "putPrefix",
        summary: "Register or replace a prefix",
        description: `Takes a PEFT adapter as its two files, or a hard prompt as JSON; clients made from this description use putAdapter and putHardPrompt. ${RUNNING}`,
        consumes: ["multipart/form-data", "application/json"],
        body: { content: { ...FORM, ...PROMPT } },
        response: responsesWith(...ADAPTER_CODES, ...PROMPT_CODES),
      },
    },
    (request, reply) => register(request, reply, request.params.id, (place) => eitherOf(request, place)),
  );
  app.put(
    "/prefixes/:id/adapter",
    {
      config,
      schema: {
        ...common,
        operationId: "putAdapter",
        summary: "Register or replace a prefix by a PEFT adapter",
        description: `Takes the two files that PEFT's save_pretrained writes. ${RUNNING}`,
        consumes: ["multipart/form-data"],
        body: { content: FORM },
        response: responsesWith(...ADAPTER_CODES),
      },
    },
    (request, reply) => register(request, reply, request.params.id, (place) => adapterOf(request, place)),
  );
  app.put(
    "/prefixes/:id/prompt",
    {
      config,
      schema: {
        ...common,
        operationId: "putHardPrompt",
        summary: "Register or replace a prefix by a hard prompt",
        description: `Takes a text, or token ids. ${RUNNING}`,
        consumes: ["application/json"],
        body: { content: PROMPT },
        response: responsesWith(...PROMPT_CODES),
      },
    },
    (request, reply) => register(request, reply, request.params.id, () => promptOf(request.body as Body)),
  );
}
