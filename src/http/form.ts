/** What the readers of multipart forms have in common. */
import type { FastifyRequest } from "fastify";
import { PrefixdError } from "../errors.ts";

export const uploadStalled = (): PrefixdError =>
  new PrefixdError("upload_stalled", "The upload stalled or was too slow; send it again.");

/** Throws `invalid_request` if the client left while its upload waited: the parser would wait for the end for ever. */
export function refuseAborted(request: FastifyRequest): void {
  if (request.raw.destroyed) throw new PrefixdError("invalid_request", "The client aborted the upload.");
}

/**
 * Reads and drops the rest of a form that is given up, or the client could not read the response before it has sent
 * everything. Returns the error to answer with: the form parser throws plain ones for malformed input.
 */
export function givenUp(request: FastifyRequest, error: unknown): unknown {
  request.raw.unpipe();
  request.raw.resume();
  const plain = error instanceof Error && !(error instanceof PrefixdError) && !("statusCode" in error);
  return plain ? new PrefixdError("invalid_request", "The multipart body is malformed.", { cause: error }) : error;
}
