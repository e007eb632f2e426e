/** Reads the form of a training file: the file as it arrives, and one short field beside it. */
import type { Readable } from "node:stream";
import type { FastifyRequest } from "fastify";
import type { Multipart } from "@fastify/multipart";
import { PrefixdError } from "../../errors.ts";
import type { IncomingFile } from "../../training/jobs/store.ts";
import type { BodyWatch } from "../connections/body-watch.ts";
import type { Place } from "../prefixes/transfer-gate.ts";

const MAX_FIELD = 256;
const MAX_PARTS = 4;
const MAX_FILENAME = 256;

export interface ReceivedForm {
  readonly filename: string;
  readonly file: IncomingFile;
}

/**
 * @param receive takes the file's content; called at most once. What it returns is the caller's, unless this throws
 * @throws PrefixdError upload_stalled, upload_incomplete, invalid_request, invalid_parameter, unsupported_parameter,
 * and what `receive` throws
 */
export async function readFileForm(
  request: FastifyRequest,
  receive: (chunks: AsyncIterable<Uint8Array>) => Promise<IncomingFile>,
  bodies: BodyWatch,
  place: Place,
): Promise<ReceivedForm> {
  let stop: (error: PrefixdError) => void = () => {};
  const stalled = new Promise<never>((_, reject) => (stop = reject));
  bodies.start(request.raw, () =>
    stop(new PrefixdError("upload_stalled", "The upload stalled or was too slow; send it again.")),
  );
  place.begin(() => bodies.bytesOf(request.raw), stop);
  try {
    return await readParts(request, receive, stalled);
  } finally {
    place.end();
    bodies.stop(request.raw);
  }
}

async function readParts(
  request: FastifyRequest,
  receive: (chunks: AsyncIterable<Uint8Array>) => Promise<IncomingFile>,
  stalled: Promise<never>,
): Promise<ReceivedForm> {
  // The client left while waiting: the parser would wait for the end for ever.
  if (request.raw.destroyed) throw new PrefixdError("invalid_request", "The client aborted the upload.");
  let received: ReceivedForm | null = null;
  let reading: Readable | null = null;
  // Whoever reads the part learns of it, too.
  stalled.catch((error: Error) => reading?.destroy(error));
  let purpose: string | null = null;
  try {
    const parts = partsOf(request);
    for (;;) {
      const next = await Promise.race([parts.next(), stalled]);
      if (next.done === true) break;
      const part = next.value;
      if (part.type !== "file") throw new TypeError("every part is read as a file");
      reading = part.file;
      if (part.fieldname === "file") {
        if (received !== null) throw new PrefixdError("invalid_request", "The form has two files.", { field: "file" });
        received = { filename: (part.filename || "file").slice(0, MAX_FILENAME), file: await receive(part.file) };
      } else purpose = purposeOf(part.fieldname, await shortText(part.file));
    }
    if (received === null)
      throw new PrefixdError("upload_incomplete", 'The form lacks the file, as "file".', { field: "file" });
    if (purpose === null)
      throw new PrefixdError("upload_incomplete", 'The form lacks "purpose": send fine-tune.', { field: "purpose" });
    return received;
  } catch (error) {
    await received?.file.discard();
    // Read and drop the rest, or the client could not read the response before it has sent everything.
    request.raw.unpipe();
    request.raw.resume();
    throw asFormError(error);
  }
}

function partsOf(request: FastifyRequest): AsyncIterableIterator<Multipart> {
  return request.parts({
    // Also what has no file name, so that nothing is held that has no limit.
    isPartAFile: () => true,
    limits: { fileSize: Infinity, files: MAX_PARTS, parts: MAX_PARTS, headerPairs: 32 },
  });
}

async function shortText(stream: AsyncIterable<Uint8Array>): Promise<string> {
  const pieces: Uint8Array[] = [];
  let size = 0;
  for await (const piece of stream) {
    size += piece.length;
    if (size > MAX_FIELD) throw new PrefixdError("invalid_request", "The form has a field that is too long.");
    pieces.push(piece);
  }
  return Buffer.concat(pieces).toString();
}

function purposeOf(name: string, value: string): string {
  if (name.startsWith("expires_after"))
    throw new PrefixdError("unsupported_parameter", "expires_after is not supported: delete the file instead.", {
      field: "expires_after",
    });
  if (name !== "purpose")
    throw new PrefixdError(
      "invalid_request",
      `The form has a field ${JSON.stringify(name.slice(0, 64))}; it takes file and purpose.`,
    );
  if (value !== "fine-tune")
    throw new PrefixdError("invalid_parameter", "purpose must be fine-tune: there is no other use of files here.", {
      field: "purpose",
    });
  return value;
}

/** The form parser throws plain errors for malformed input. */
function asFormError(error: unknown): unknown {
  const plain = error instanceof Error && !(error instanceof PrefixdError) && !("statusCode" in error);
  return plain ? new PrefixdError("invalid_request", "The multipart body is malformed.", { cause: error }) : error;
}
