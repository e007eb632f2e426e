/** Errors of the routes under /v1, in the shape that OpenAI's clients read, with our own codes. */
import Type, { type Static } from "typebox";
import { ERRORS, PrefixdError, type ErrorCode } from "../../errors.ts";
import { CODES, errorResponses, named, strict, type ResponseDocument } from "../common-schema.ts";

const TYPES = [
  "invalid_request_error",
  "authentication_error",
  "permission_error",
  "rate_limit_error",
  "server_error",
] as const;

export const OpenAiError = named(
  "OpenAiError",
  strict(
    {
      error: strict({
        message: Type.String({ description: "What was wrong with this request, for humans" }),
        type: Type.Enum([...TYPES], { description: "The kind of error, by its status" }),
        param: Type.Union([Type.String(), Type.Null()], { description: "The field that it is about, if it is one" }),
        code: Type.Enum(CODES, { description: "Stable, for programs; docs/reference/errors.md lists them" }),
      }),
    },
    { description: "An error as OpenAI's API has it. In a stream it is the data of the last event." },
  ),
);
export type OpenAiError = Static<typeof OpenAiError>;

/** Whether errors at this path have OpenAI's shape: also at paths that do not exist. */
export const isOpenAiPath = (url: string): boolean => /^\/v1(?:[/?]|$)/.test(url);

/** Errors that the model's name causes. */
const OF_MODEL: ReadonlySet<ErrorCode> = new Set([
  "prefix_not_found",
  "prefix_not_owned",
  "prefix_base_mismatch",
  "prefix_damaged",
  "prefix_overflows",
  "invalid_prefix_id",
  "base_model_disabled",
  "removed",
]);

/** Errors that `structured_outputs` causes. */
const OF_CONSTRAINT: ReadonlySet<ErrorCode> = new Set([
  "constraint_invalid",
  "constraint_unsupported",
  "constraint_too_complex",
]);

/** @param message what the client may know of it */
export function toOpenAiError(error: PrefixdError, message: string): OpenAiError {
  const { code, status, field } = error;
  return { error: { message, type: typeOf(status), param: field ?? fieldOf(code), code } };
}

function fieldOf(code: ErrorCode): string | null {
  if (OF_MODEL.has(code)) return "model";
  return OF_CONSTRAINT.has(code) ? "structured_outputs" : null;
}

function typeOf(status: number): (typeof TYPES)[number] {
  if (status >= 500) return "server_error";
  return status === 401
    ? "authentication_error"
    : status === 403
      ? "permission_error"
      : status === 429
        ? "rate_limit_error"
        : "invalid_request_error";
}

/**
 * Whether the same request would fail again. OpenAI's clients repeat 408, 409, 429 and all from 500 up, unless
 * `x-should-retry: false` tells them better.
 */
export function shouldNotRetry({ code, status, limit }: PrefixdError): boolean {
  if (code === "prefix_damaged" || code === "store_full" || code === "training_off") return true;
  // Nothing is allowed at all.
  if (status === 429) return limit?.quota === 0;
  return status < 500 && status !== 408;
}

/** A route's error responses, for the API's description. */
export const openAiErrors = (...codes: ErrorCode[]): Record<string, ResponseDocument> =>
  errorResponses(codes, {
    type: "application/json",
    schema: OpenAiError,
    example: (code) => {
      const message = `${ERRORS[code].title}.`;
      return toOpenAiError(new PrefixdError(code, message), message);
    },
  });
