import type { FastifyRequest } from "fastify";
import type { Multipart } from "@fastify/multipart";
import { PrefixdError } from "../errors.ts";
import type { ModelShape } from "../kv.ts";
import { maxAdapterBytes } from "../prefixes/peft.ts";
import type { BodyWatch } from "./body-watch.ts";

const CONFIG = "adapter_config.json";
const WEIGHTS = "adapter_model.safetensors";
const KIB = 1024;

/** Bytes that the two files may have. */
export type UploadLimits = Readonly<Record<typeof CONFIG | typeof WEIGHTS, number>>;

interface Adapter {
  readonly config: Uint8Array;
  readonly weights: Uint8Array;
}

/** The largest adapter that could fit the model. */
export function uploadLimits(shape: ModelShape): UploadLimits {
  return { [CONFIG]: 64 * KIB, [WEIGHTS]: maxAdapterBytes(shape) };
}

/**
 * PEFT's two files out of a multipart body, told apart by file name. Bytes are counted as they come, so no more than the limits
 * is ever held. Throws `upload_incomplete`, `upload_stalled`, `body_too_large`, `invalid_request`.
 */
export async function readAdapter(request: FastifyRequest, limits: UploadLimits, bodies: BodyWatch): Promise<Adapter> {
  const stalled = new Promise<never>((_, reject) => {
    bodies.start(request.raw, () => reject(new PrefixdError("upload_stalled", "The upload has stopped, or was too slow to wait for; send it again.")));
  });
  try {
    return await Promise.race([readFiles(request, limits), stalled]);
  } finally {
    bodies.stop(request.raw);
  }
}

async function readFiles(request: FastifyRequest, limits: UploadLimits): Promise<Adapter> {
  const room = limits[CONFIG] + limits[WEIGHTS] + 64 * KIB;
  if (Number(request.headers["content-length"] ?? 0) > room) throw tooLarge("The upload", room);
  // Gone while it waited for its turn: the parser would wait for its end for ever.
  if (request.raw.destroyed) throw new PrefixdError("invalid_request", "The upload was given up.");
  const files = new Map<string, Uint8Array>();
  try {
    for await (const part of partsOf(request, limits)) {
      if (part.type !== "file") throw new PrefixdError("invalid_request", `The form has a field ${quote(part.fieldname)}; only the two files are expected.`);
      if (part.filename !== CONFIG && part.filename !== WEIGHTS) throw unexpected(part.filename);
      if (files.has(part.filename)) throw new PrefixdError("invalid_request", `The form has ${part.filename} twice.`);
      files.set(part.filename, await readFile(part.file, part.filename, limits[part.filename]));
    }
  } catch (error) {
    // What is still on its way is read and dropped, else the client could not read the answer before it has sent everything.
    request.raw.unpipe();
    request.raw.resume();
    throw asUploadError(error);
  }
  const [config, weights] = [files.get(CONFIG), files.get(WEIGHTS)];
  if (!config || !weights) throw new PrefixdError("upload_incomplete", `The form lacks the file ${config ? WEIGHTS : CONFIG}.`);
  return { config, weights };
}

function partsOf(request: FastifyRequest, limits: UploadLimits): AsyncIterableIterator<Multipart> {
  // Busboy stops for ever behind a large part that it skips (one without a name, say) once such a part's stream has asked it to wait.
  // So none asks: what is read is kept anyway, up to the limits.
  const fileHwm = limits[CONFIG] + limits[WEIGHTS];
  return request.parts({ fileHwm, limits: { fileSize: limits[WEIGHTS] + 1, files: 8, fields: 1, fieldSize: KIB, fieldNameSize: 128, parts: 8, headerPairs: 32 } });
}

async function readFile(stream: AsyncIterable<Buffer>, name: string, limit: number): Promise<Uint8Array> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of stream) {
    size += chunk.length;
    if (size > limit) throw tooLarge(name, limit);
    chunks.push(chunk);
  }
  return Buffer.concat(chunks, size);
}

function unexpected(name: string): PrefixdError {
  const why = /\.(bin|pt|pth|pkl|ckpt)$/.test(name) ? "; pickles are never read, save the adapter with safe_serialization" : "";
  return new PrefixdError("invalid_request", `The form has a file ${quote(name)}; expected are ${CONFIG} and ${WEIGHTS}${why}.`);
}

const tooLarge = (what: string, limit: number): PrefixdError => new PrefixdError("body_too_large", `${what} is larger than ${limit} bytes, the most that could fit this model.`);
const quote = (name: string): string => JSON.stringify(name.slice(0, 64));

/** The form parser throws plain errors for malformed input. */
function asUploadError(error: unknown): unknown {
  const plain = error instanceof Error && !(error instanceof PrefixdError) && !("statusCode" in error);
  return plain ? new PrefixdError("invalid_request", "The multipart body is malformed.", { cause: error }) : error;
}
