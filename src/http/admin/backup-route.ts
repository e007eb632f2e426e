import { Readable } from "node:stream";
import type { FastifyReply, FastifyRequest } from "fastify";
import { PrefixdError } from "../../errors.ts";
import { refuseRevoked } from "../access.ts";
import type { AppParts, TypedApp } from "../app-parts.ts";
import { problems, UNREAD_BODY } from "../common-schema.ts";

/** The store's content as a stream, for a backup of a server that goes on serving. */
export function backupRoutes(app: TypedApp, { backup, auth }: AppParts): void {
  let running = false;
  // A key that is withdrawn gets no more of it.
  const pieces = async function* (request: FastifyRequest): AsyncGenerator<Uint8Array> {
    for await (const piece of backup()) {
      await refuseRevoked(auth, request);
      yield piece;
    }
  };
  app.post(
    "/admin/backup",
    {
      config: { access: "admin", audit: "store.backup" },
      schema: {
        operationId: "backUp",
        tags: ["operation"],
        summary: "Users, key hashes, prefixes and usage as one file",
        description:
          "What `prefixd export` writes, at `--backup-rate` bytes a second, while the server goes on serving; `prefixd import` reads it. One at a time. If it cannot be finished, or the key is withdrawn, the connection is closed before the end, and the file is refused by `prefixd import`.",
        response: {
          200: {
            description: "The export",
            content: { "application/octet-stream": { schema: { type: "string", format: "binary" } } },
          },
          ...problems("unauthorized", "forbidden", "backup_busy", "store_unavailable", ...UNREAD_BODY),
        },
      },
    },
    async (request, reply) => {
      if (running) throw new PrefixdError("backup_busy", "Another backup is being made; there is one at a time.");
      // Reads at the client's pace: at most two pieces that are not read yet are in memory.
      const bytes = Readable.from(pieces(request), { objectMode: false, highWaterMark: 1 });
      running = true;
      bytes.once("close", () => (running = false));
      return sendExport(reply, bytes);
    },
  );
}

function sendExport(reply: FastifyReply, bytes: Readable): FastifyReply {
  return reply
    .header("content-disposition", 'attachment; filename="prefixd.export"')
    .type("application/octet-stream")
    .send(bytes);
}
