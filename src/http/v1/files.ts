import { Readable } from "node:stream";
import type { FastifyReply, FastifyRequest } from "fastify";
import { PrefixdError, type ErrorCode } from "../../errors.ts";
import type { TrainingService } from "../../training/jobs/service.ts";
import type { Page } from "../../training/jobs/store.ts";
import type { TrainingFile } from "../../training/jobs/types.ts";
import { refuseRevoked } from "../access.ts";
import { abortOnDisconnect, answered } from "../connections/response-end.ts";
import type { AppParts, TypedApp } from "../app-parts.ts";
import { json, UNREAD_BODY } from "../common-schema.ts";
import type { BodyWatch } from "../connections/body-watch.ts";
import { DOWNLOADS, downloadsBusy, TransferGate } from "../prefixes/transfer-gate.ts";
import { openAiErrors } from "./errors.ts";
import {
  DeletedFile,
  FILE_EXAMPLE,
  FILES_EXAMPLE,
  FileForm,
  FileObject,
  FileObjects,
  FileParams,
  FilesQuery,
} from "./files-schema.ts";
import { readFileForm } from "./form-file.ts";

const ALL: ErrorCode[] = ["unauthorized", "training_off", "store_unavailable"];
const ONE: ErrorCode[] = [...ALL, "training_file_not_found"];

/** @throws PrefixdError training_off */
export function trainingOf({ training }: Pick<AppParts, "training">): TrainingService {
  if (training !== null) return training;
  throw new PrefixdError("training_off", "This server does not train prefixes: it must be started with --training on.");
}

/** For the audit log. */
export function noted(request: FastifyRequest, id: string): void {
  request.audit.target = `${request.principal.user}/${id}`;
}

export const DEFAULT_LIMIT = 20;

interface PageQuery {
  readonly limit?: number;
  readonly after?: string;
  readonly order?: Page["order"];
}

/** One more than the page, to know whether more follow; the newest first unless the query says otherwise. */
export const pageOf = ({ limit = DEFAULT_LIMIT, after, order = "desc" }: PageQuery): Page => ({
  limit: limit + 1,
  order,
  ...(after === undefined ? {} : { after }),
});

/** What one more than the page says about whether there is more. */
export function listOf<T, Shown>(
  found: readonly T[],
  limit: number,
  shown: (item: T) => Shown,
): { object: "list"; data: Shown[]; has_more: boolean } {
  return { object: "list", data: found.slice(0, limit).map(shown), has_more: found.length > limit };
}

/** The same with the ids at the page's ends, as OpenAI has it for files and checkpoints. */
export function endedListOf<T, Shown extends { readonly id: string }>(
  found: readonly T[],
  limit: number,
  shown: (item: T) => Shown,
): ReturnType<typeof listOf<T, Shown>> & { first_id: string | null; last_id: string | null } {
  const list = listOf(found, limit, shown);
  return { ...list, first_id: list.data[0]?.id ?? null, last_id: list.data.at(-1)?.id ?? null };
}

/** Training files, as OpenAI's clients upload and list them. */
export function filesRoutes(app: TypedApp, parts: AppParts, bodies: BodyWatch): void {
  const uploads = new TransferGate(parts.uploads);
  const downloads = new TransferGate(DOWNLOADS, downloadsBusy);
  const tags = ["fine-tuning"];
  /** The file that the request is about. */
  const fileOf = async (request: FastifyRequest, id: string): Promise<TrainingFile> => {
    const file = await trainingOf(parts).file(request.principal.user, id, "file");
    noted(request, file.id);
    return file;
  };

  app.post(
    "/v1/files",
    {
      config: { access: "user", audit: "training.upload" },
      schema: {
        operationId: "uploadFile",
        tags,
        summary: "Upload a file of examples, as OpenAI's clients do",
        description:
          'Every line is checked while it arrives; if more than 1 % are bad, the file is refused and the error names them. Lines are `{"prompt": "...", "completion": "..."}`; chat lines are not read.',
        consumes: ["multipart/form-data"],
        body: { content: { "multipart/form-data": { schema: FileForm } } },
        response: {
          200: json("The file", FileObject, { example: FILE_EXAMPLE }),
          ...openAiErrors(
            ...ALL,
            "invalid_parameter",
            "unsupported_parameter",
            "upload_incomplete",
            "upload_stalled",
            "uploads_busy",
            "training_data_invalid",
            "training_quota_exceeded",
            "removed",
            "unsupported_media_type",
            "body_too_large",
            "store_full",
          ),
        },
      },
    },
    async (request, reply) => {
      const training = trainingOf(parts);
      const { user } = request.principal;
      if (!request.isMultipart())
        throw new PrefixdError(
          "unsupported_media_type",
          "Send multipart/form-data with a file and its purpose, fine-tune.",
        );
      const { signal } = abortOnDisconnect(reply);
      return uploads.run(user, signal, async (place) => {
        const form = await readFileForm(request, (chunks) => training.receive(user, chunks), bodies, place);
        try {
          await refuseRevoked(parts.auth, request);
          const file = await training.keep(user, form.filename, form.file);
          noted(request, file.id);
          return fileDocument(file);
        } catch (error) {
          await form.file.discard();
          throw error;
        }
      });
    },
  );

  app.get(
    "/v1/files",
    {
      config: { access: "user" },
      schema: {
        operationId: "listFiles",
        tags,
        summary: "Your files",
        description: "One page, the newest first unless `order` says otherwise.",
        querystring: FilesQuery,
        response: {
          200: json("One page", FileObjects, { example: FILES_EXAMPLE }),
          ...openAiErrors(...ALL, "unknown_field", "invalid_parameter"),
        },
      },
    },
    async (request) => {
      const { limit = DEFAULT_LIMIT, purpose = "fine-tune" } = request.query;
      const found = await trainingOf(parts).listFiles(request.principal.user, pageOf(request.query));
      return endedListOf(purpose === "fine-tune" ? found : [], limit, fileDocument);
    },
  );

  app.get(
    "/v1/files/:file",
    {
      config: { access: "user" },
      schema: {
        operationId: "getFile",
        tags,
        summary: "A file's record",
        description: "Its size, name and time of upload.",
        params: FileParams,
        response: { 200: json("The file", FileObject, { example: FILE_EXAMPLE }), ...openAiErrors(...ONE) },
      },
    },
    async (request) => fileDocument(await fileOf(request, request.params.file)),
  );

  app.get(
    "/v1/files/:file/content",
    {
      config: { access: "user" },
      schema: {
        operationId: "getFileContent",
        tags,
        summary: "A file's content",
        description:
          "Byte for byte as it was uploaded. If the file is deleted during the download, the connection is closed before the end.",
        params: FileParams,
        response: {
          200: {
            description: "The file",
            content: { "application/octet-stream": { schema: { type: "string", format: "binary" } } },
          },
          ...openAiErrors(...ONE, "downloads_busy"),
        },
      },
    },
    async (request, reply) => {
      const file = await fileOf(request, request.params.file);
      await downloads.run(request.principal.user, abortOnDisconnect(reply).signal, async () => {
        const content = await trainingOf(parts).content(file);
        const over = answered(reply);
        sendContent(reply, file, content);
        await over;
        content.destroy();
      });
      return reply;
    },
  );

  app.delete(
    "/v1/files/:file",
    {
      config: { access: "user", audit: "training.delete_file" },
      schema: {
        operationId: "deleteFile",
        tags,
        summary: "Delete a file",
        description: "Running jobs have read theirs already; one that waits, or has to be resumed, fails without it.",
        params: FileParams,
        response: {
          200: json("Deleted", DeletedFile),
          ...openAiErrors(...ONE, ...UNREAD_BODY, "store_full"),
        },
      },
    },
    async (request) => {
      const { id } = await fileOf(request, request.params.file);
      await trainingOf(parts).deleteFile(request.principal.user, id);
      return { id, object: "file" as const, deleted: true };
    },
  );
}

function sendContent(reply: FastifyReply, { bytes }: TrainingFile, content: Readable): void {
  reply.header("content-length", bytes).type("application/octet-stream");
  void reply.send(reply.request.method === "HEAD" ? Readable.from([]) : content);
}

function fileDocument({ id, bytes, createdAt, filename }: TrainingFile): FileObject {
  return {
    id,
    object: "file",
    bytes,
    created_at: Math.floor(createdAt / 1000),
    filename,
    purpose: "fine-tune",
    status: "processed",
  };
}
