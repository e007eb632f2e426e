import type { FastifyRequest } from "fastify";
import type { Multipart, MultipartFile } from "@fastify/multipart";
import { PrefixdError } from "../../errors.ts";
import type { ModelShape } from "../../kv.ts";
import { readAdapterWeights, type BaseEmbeddings } from "../../prefixes/adapter-weights.ts";
import { parsePeftConfig } from "../../prefixes/peft-config.ts";
import { CONFIG_FILE, maxAdapterBytes, PICKLES_ARE_NOT_READ, WEIGHTS_FILE } from "../../prefixes/peft.ts";
import type { PeftUpload, PrefixUpload } from "../../prefixes/registry-types.ts";
import type { BodyWatch } from "../connections/body-watch.ts";
import { givenUp, refuseAborted, uploadStalled } from "../form.ts";
import type { PromptReader } from "../generate/prompts.ts";
import type { HardPromptBody } from "./schema.ts";
import type { Place } from "./transfer-gate.ts";

const KIB = 1024;
const MAX_CONFIG = 64 * KIB;
/** All other files together: a tokenizer's take some MB. */
const MAX_OTHERS = 16 * KIB * KIB;
const MAX_PARTS = 32;

/** Files may also be recognised by field name, as many clients name files "blob" or not at all. */
const FIELDS: ReadonlyMap<string, string> = new Map([
  ["adapter_config", CONFIG_FILE],
  [CONFIG_FILE, CONFIG_FILE],
  ["adapter_model", WEIGHTS_FILE],
  [WEIGHTS_FILE, WEIGHTS_FILE],
]);

export interface UploadOptions {
  readonly shape: ModelShape;
  readonly embeddings: BaseEmbeddings;
}

/**
 * Reads PEFT's two files from a multipart body, recognised by file name or else by field name; other files are skipped
 * and logged. Counts bytes as they arrive, so it never holds more than could fit the model. Throws `upload_incomplete`,
 * `upload_stalled`, `body_too_large`, `invalid_request`, `adapter_config_invalid` and the other errors of reading an
 * adapter.
 */
export async function readAdapter(
  request: FastifyRequest,
  options: UploadOptions,
  bodies: BodyWatch,
  place: Place,
): Promise<PeftUpload> {
  const stalled = new Promise<never>((_, reject) => {
    bodies.start(request.raw, () => reject(uploadStalled()));
    place.begin(() => bodies.bytesOf(request.raw), reject);
  });
  try {
    return await Promise.race([moreThan(request, mostBytes(options.shape)), stalled, readFiles(request, options)]);
  } finally {
    place.end();
    bodies.stop(request.raw);
  }
}

async function readFiles(request: FastifyRequest, options: UploadOptions): Promise<PeftUpload> {
  refuseAborted(request);
  const files = new Map<string, Uint8Array>();
  const others: string[] = [];
  let room = MAX_OTHERS;
  try {
    for await (const part of partsOf(request, options.shape)) {
      if (part.type !== "file") throw new TypeError("every part is read as a file");
      const name = nameOf(part);
      if (name === null) {
        others.push(part.filename.slice(0, 64));
        room = await skip(part.file, room, others);
        continue;
      }
      if (files.has(name)) throw new PrefixdError("invalid_request", `The form has ${name} twice.`);
      files.set(name, await readFile(part.file, name, options));
    }
  } catch (error) {
    throw givenUp(request, error);
  }
  const [config, weights] = [files.get(CONFIG_FILE), files.get(WEIGHTS_FILE)];
  if (!config || !weights) throw incomplete(config ? WEIGHTS_FILE : CONFIG_FILE, others);
  if (others.length > 0) request.log.info({ files: others }, "ignored uploaded files that are not part of an adapter");
  return { kind: "peft", config, weights };
}

/** Largest form: copies of the embeddings are read, but not held. */
function mostBytes(shape: ModelShape): number {
  return MAX_CONFIG + maxAdapterBytes(shape) + 2 * shape.vocabSize * shape.width * 4 + MAX_OTHERS + 64 * KIB;
}

/**
 * Rejects when more than `limit` bytes have arrived, including parts that the form parser skips. Call before anything
 * reads the body.
 */
function moreThan(request: FastifyRequest, limit: number): Promise<never> {
  let size = 0;
  return new Promise((_, reject) => {
    request.raw.on("data", (bytes: Uint8Array) => {
      size += bytes.length;
      if (size > limit) reject(tooLarge("The upload", limit));
    });
  });
}

function partsOf(request: FastifyRequest, shape: ModelShape): AsyncIterableIterator<Multipart> {
  const options = {
    // A part without a file name is a file too.
    isPartAFile: () => true,
    // Busboy hangs after skipping a large part (such as one without a name) whose stream has signalled backpressure. So
    // the buffer is as large as what may be held anyway.
    fileHwm: MAX_CONFIG + maxAdapterBytes(shape),
    limits: { fileSize: Infinity, files: MAX_PARTS, parts: MAX_PARTS, headerPairs: 32 },
  };
  return request.parts(options);
}

/** Which of the two files a part is; null for another file. Throws `invalid_request` for a part that is not a file. */
function nameOf({ filename, fieldname }: Partial<MultipartFile>): string | null {
  if (filename === CONFIG_FILE || filename === WEIGHTS_FILE) return filename;
  const named = FIELDS.get(fieldname ?? "");
  if (named !== undefined) return named;
  if (filename) return null;
  throw new PrefixdError(
    "invalid_request",
    `The form has a field ${quote(fieldname ?? "")}; expected ${CONFIG_FILE} and ${WEIGHTS_FILE}.`,
  );
}

async function readFile(
  stream: AsyncIterable<Uint8Array>,
  name: string,
  { shape, embeddings }: UploadOptions,
): Promise<Uint8Array> {
  if (name === WEIGHTS_FILE) return readAdapterWeights(stream, { limit: maxAdapterBytes(shape), embeddings });
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of stream) {
    size += chunk.length;
    if (size > MAX_CONFIG) throw tooLarge(name, MAX_CONFIG);
    chunks.push(chunk);
  }
  const config = Buffer.concat(chunks, size);
  // Refuse what cannot be served before reading hundreds of MB of weights.
  parsePeftConfig(config, shape);
  return config;
}

/** Reads a file to its end without keeping it; returns the remaining room. */
async function skip(stream: AsyncIterable<Uint8Array>, room: number, names: readonly string[]): Promise<number> {
  for await (const { length } of stream) {
    room -= length;
    if (room < 0)
      throw new PrefixdError(
        "body_too_large",
        `The form's other files (${names.map(quote).join(", ")}) are larger than ${MAX_OTHERS} bytes together; send ${CONFIG_FILE} and ${WEIGHTS_FILE} alone.`,
      );
  }
  return room;
}

function incomplete(lacking: string, others: readonly string[]): PrefixdError {
  const pickle = lacking === WEIGHTS_FILE ? others.find((name) => /\.(bin|pt|pth|pkl|ckpt)$/.test(name)) : undefined;
  if (pickle !== undefined)
    return new PrefixdError(
      "upload_incomplete",
      `The form has ${quote(pickle)} instead of ${lacking}: ${PICKLES_ARE_NOT_READ}`,
    );
  const has = others.length === 0 ? "" : ` It has ${others.map(quote).join(", ")}.`;
  return new PrefixdError("upload_incomplete", `The form lacks the file ${lacking}.${has}`);
}

const tooLarge = (what: string, limit: number): PrefixdError =>
  new PrefixdError("body_too_large", `${what} is larger than ${limit} bytes, the most that could fit this model.`);
const quote = (name: string): string => JSON.stringify(name.slice(0, 64));

/** Throws `invalid_request`, and what `reader` throws. */
export async function readHardPrompt(body: HardPromptBody, reader: PromptReader): Promise<PrefixUpload> {
  const { text, token_ids } = body;
  if ((text === undefined) === (token_ids === undefined))
    throw new PrefixdError("invalid_request", "Send either text or token_ids.");
  const [ids] =
    text === undefined
      ? await reader.read([token_ids ?? []], ["token_ids"], false)
      : await reader.read([text], ["text"], false);
  return { kind: "hard", ids: ids as Int32Array, ...(text === undefined ? {} : { text }) };
}
