/** Reads the form of a training file: the file as it arrives, and one short field beside it. */
import type { Readable } from "node:stream";
import type { FastifyRequest } from "fastify";
import type { Multipart } from "@fastify/multipart";
import { PrefixdError } from "../../errors.ts";
import type { IncomingFile } from "../../training/jobs/store.ts";
import type { BodyWatch } from "../connections/body-watch.ts";
import { givenUp, refuseAborted, uploadStalled } from "../form.ts";
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
  bodies.start(request.raw, () => stop(uploadStalled()));
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
  refuseAborted(request);
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
    throw givenUp(request, error);
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
