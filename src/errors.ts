import { oneLine } from "./one-line.ts";

/**
 * Every error that a client can see: its stable code, HTTP status and title. Nothing else in the project makes up
 * codes. docs/reference/errors.md and openapi.yaml are held against this table by a test.
 */
export const ERRORS = {
  // requests
  invalid_request: { status: 400, title: "The request is malformed" },
  unknown_field: { status: 400, title: "The request has an unknown field" },
  unsupported_parameter: { status: 400, title: "A parameter is not supported" },
  invalid_parameter: { status: 400, title: "A parameter has a value out of range" },
  empty_prompt: { status: 400, title: "The prompt is empty" },
  invalid_token_id: { status: 400, title: "A token id is outside the vocabulary" },
  context_exceeded: { status: 422, title: "Prefix, prompt and new tokens do not fit the context" },
  constraint_invalid: { status: 400, title: "The answer's constraint is not valid" },
  constraint_unsupported: { status: 400, title: "The answer's constraint cannot be enforced" },
  constraint_too_complex: { status: 400, title: "The answer's constraint needs too much work" },
  answer_too_large: { status: 422, title: "The answer would be too large" },
  base_model_disabled: { status: 403, title: "This server does not serve the bare base model" },
  body_too_large: { status: 413, title: "The request body is too large" },
  unsupported_media_type: { status: 415, title: "The content type is not supported" },
  not_found: { status: 404, title: "No such resource" },
  method_not_allowed: { status: 405, title: "The method is not allowed here" },
  host_not_allowed: { status: 421, title: "The Host header names another host" },
  headers_too_large: { status: 431, title: "The request's headers are too large" },
  request_timeout: { status: 408, title: "The request took too long to arrive" },
  // prefixes
  prefix_not_found: { status: 404, title: "No such prefix" },
  prefix_not_readable: { status: 403, title: "The prefix may be used but not downloaded" },
  prefix_not_owned: { status: 403, title: "Only its owner may change the prefix" },
  invalid_prefix_id: { status: 400, title: "The prefix id is not valid" },
  precondition_failed: { status: 412, title: "The prefix has changed" },
  prefix_base_mismatch: { status: 409, title: "The prefix was made for another base model" },
  prefix_base_name_mismatch: { status: 409, title: "The adapter names another base model" },
  upload_incomplete: { status: 400, title: "The upload lacks a file" },
  upload_stalled: { status: 408, title: "The upload stopped or was too slow" },
  uploads_busy: { status: 503, title: "Too many uploads at once" },
  downloads_busy: { status: 503, title: "Too many downloads at once" },
  adapter_config_invalid: { status: 422, title: "adapter_config.json is not valid" },
  adapter_type_unsupported: { status: 422, title: "The adapter's type is not supported" },
  adapter_shape_mismatch: { status: 422, title: "The adapter does not fit the base model" },
  safetensors_invalid: { status: 422, title: "The safetensors file is not valid" },
  prefix_not_finite: { status: 422, title: "The prefix has non-finite values" },
  prefix_overflows: { status: 422, title: "The prefix makes the model overflow" },
  prefix_damaged: { status: 500, title: "The stored prefix is damaged" },
  version_not_found: { status: 404, title: "No such version of the prefix" },
  prefix_too_long: { status: 422, title: "The prefix has too many virtual tokens" },
  // users
  unauthorized: { status: 401, title: "A valid key is needed" },
  forbidden: { status: 403, title: "This needs another role" },
  user_exists: { status: 409, title: "The user already exists" },
  user_not_found: { status: 404, title: "No such user" },
  unknown_users: { status: 422, title: "Some of the named users do not exist" },
  too_many_keys: { status: 409, title: "The user has the maximum number of keys" },
  key_not_found: { status: 404, title: "No such key" },
  invalid_user_id: { status: 400, title: "The user id is not valid" },
  quota_exceeded: { status: 403, title: "The user's quota of prefixes is used up" },
  user_queue_full: { status: 429, title: "The user has too many requests waiting" },
  user_suspended: { status: 403, title: "The user is suspended" },
  token_rate_exceeded: { status: 429, title: "The user's tokens for this minute are used up" },
  // training
  training_off: { status: 501, title: "This server does not train prefixes" },
  training_file_not_found: { status: 404, title: "No such file" },
  training_data_invalid: { status: 422, title: "The file is not usable as training data" },
  training_job_not_found: { status: 404, title: "No such training job" },
  training_job_ended: { status: 409, title: "The training job has ended" },
  training_quota_exceeded: { status: 403, title: "The user's quota for training is used up" },
  // operation
  queue_full: { status: 429, title: "The queue is full" },
  queue_timeout: { status: 503, title: "The request has waited too long" },
  store_unavailable: { status: 503, title: "The prefix store is not available" },
  store_full: { status: 507, title: "The prefix store has no room left" },
  backup_busy: { status: 409, title: "Another backup is being made" },
  live_busy: { status: 503, title: "Too many readers of the live feed" },
  draining: { status: 503, title: "The server is shutting down" },
  removed: { status: 410, title: "The prefix was removed while the request ran" },
  device_lost: { status: 503, title: "The device that runs the model is lost" },
  model_failed: { status: 500, title: "The model run failed" },
  internal: { status: 500, title: "Internal error" },
  // the balancer in front of replicas (docker/haproxy.cfg)
  no_replica: { status: 503, title: "No replica can be reached" },
  replica_failed: { status: 502, title: "The replica ended before it answered" },
  replica_silent: { status: 504, title: "The replica did not answer in time" },
} as const satisfies Record<string, { status: number; title: string }>;

export type ErrorCode = keyof typeof ERRORS;

/** What any route may answer. */
export const ANY_ROUTE_CODES = [
  "host_not_allowed",
  "invalid_request",
  "draining",
  "internal",
] as const satisfies ErrorCode[];

/** What a request that generates may be refused with, or fail with, besides. */
export const GENERATE_CODES = [
  "unauthorized",
  "unknown_field",
  "unsupported_parameter",
  "invalid_parameter",
  "empty_prompt",
  "invalid_token_id",
  "constraint_invalid",
  "constraint_unsupported",
  "constraint_too_complex",
  "invalid_prefix_id",
  "context_exceeded",
  "answer_too_large",
  "body_too_large",
  "unsupported_media_type",
  "prefix_not_found",
  "prefix_base_mismatch",
  "prefix_damaged",
  "prefix_overflows",
  "queue_full",
  "user_queue_full",
  "queue_timeout",
  "token_rate_exceeded",
  "store_unavailable",
  "removed",
  "model_failed",
  "device_lost",
  "base_model_disabled",
  "user_suspended",
] as const satisfies ErrorCode[];

/** The limit a request ran into, sent as RateLimit headers. */
export interface ReachedLimit {
  readonly name: "tokens" | "queue" | "user_queue";
  readonly quota: number;
  readonly remaining: number;
  /** Seconds until there is room. */
  readonly resetSeconds: number;
  /** The quota's window in seconds; absent: it limits what exists at one time. */
  readonly windowSeconds?: number;
}

/** An error with a stable code. `detail` is for the client: it never contains secrets, paths or stack traces. */
export class PrefixdError extends Error {
  override readonly name = "PrefixdError";
  readonly code: ErrorCode;
  readonly status: number;
  /** Seconds to wait before retrying. */
  readonly retryAfter: number | undefined;
  readonly limit: ReachedLimit | undefined;
  /** The request's field that it is about, such as `stop[1]`, if it is about one. */
  readonly field: string | undefined;

  constructor(
    code: ErrorCode,
    detail: string,
    options: { cause?: unknown; retryAfter?: number; limit?: ReachedLimit; field?: string } = {},
  ) {
    super(detail, options.cause === undefined ? undefined : { cause: options.cause });
    this.code = code;
    this.status = ERRORS[code].status;
    this.retryAfter = options.retryAfter;
    this.limit = options.limit;
    this.field = options.field;
  }
}

/** The error of a request whose model run threw. */
export function asModelError(error: unknown): PrefixdError {
  return error instanceof PrefixdError
    ? error
    : new PrefixdError("model_failed", "The model run failed.", { cause: error });
}

/**
 * A runner's call of the device. Throws RangeErrors, which are the caller's mistakes, as they are, others as
 * `model_failed`.
 */
export function callModel<T>(call: () => T): T {
  try {
    return call();
  } catch (error) {
    throw rangeOrModelError(error);
  }
}

/** The same for a call that is awaited. */
export async function runModel<T>(run: () => Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (error) {
    throw rangeOrModelError(error);
  }
}

function rangeOrModelError(error: unknown): Error {
  return error instanceof RangeError ? error : asModelError(error);
}

/** The error of a request that comes during the shutdown. `retryAfter` in seconds. */
export function shuttingDown(retryAfter: number): PrefixdError {
  return new PrefixdError("draining", "The server is shutting down.", { retryAfter });
}

/** The error of a replica that may not serve because it cannot know what has been removed. */
export function lostTouch(): PrefixdError {
  return new PrefixdError(
    "store_unavailable",
    "This replica has lost contact with the store and serves nothing until contact is restored.",
    { retryAfter: 2 },
  );
}

/**
 * A setting or argument that cannot be used. `message` is one line that names it; line ends in outside values are
 * removed.
 */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
  /** Correct usage: our own text, whole lines, shown below the message. */
  readonly usage: string;

  constructor(message: string, usage = "") {
    super(oneLine(message));
    this.usage = usage;
  }
}

export type ModelLoadErrorCode = "model_not_found" | "model_unsupported" | "model_invalid";

/** The base model cannot be loaded. The start ends with this one line; it is for the operator and may contain paths. */
export class ModelLoadError extends Error {
  override readonly name = "ModelLoadError";
  readonly code: ModelLoadErrorCode;

  constructor(code: ModelLoadErrorCode, detail: string, options?: { cause?: unknown }) {
    super(detail, options);
    this.code = code;
  }
}

/** The machine cannot compute as `--precision` requires. For the operator. */
export class PrecisionError extends Error {
  override readonly name = "PrecisionError";

  constructor(precision: string, reason: string) {
    super(`--precision ${precision} cannot be used: ${reason}. --precision fp32 works on every processor.`);
  }
}

/** The model cannot run on the requested device. For the operator. */
export class DeviceError extends Error {
  override readonly name = "DeviceError";

  constructor(device: string, reason: string, options?: { cause?: unknown }) {
    super(
      `--device ${device} cannot be used: ${reason} Run prefixd doctor --device ${device} to see what is missing.`,
      options,
    );
  }
}

export type TrainingErrorCode = "data_invalid" | "options_invalid" | "state_mismatch" | "diverged" | "model_changed";

/** A training cannot begin or go on. For whoever started it. */
export class TrainingError extends Error {
  override readonly name = "TrainingError";
  readonly code: TrainingErrorCode;

  constructor(code: TrainingErrorCode, detail: string, options?: { cause?: unknown }) {
    super(detail, options);
    this.code = code;
  }
}
