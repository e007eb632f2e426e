import { pino, type DestinationStream, type Logger } from "pino";

export type { Logger } from "pino";

/** Keys that never reach a log line, wherever a caller puts an object that has them. */
const SECRET_KEYS = ["authorization", "cookie", "prompt", "prompts", "text", "token_ids", "stop", "key"];

/**
 * JSON lines with ISO times and level names. Requests are logged by what the access log picks, never whole: pino's own serialisers,
 * which print URLs and headers, are replaced. Redaction is the second fence.
 */
export function createLogger(level: string, destination?: DestinationStream): Logger {
  const options = {
    level,
    base: { name: "prefixd" },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
    redact: { paths: SECRET_KEYS.flatMap((key) => [key, `*.${key}`, `*.*.${key}`]), censor: "[redacted]" },
    serializers: { err: serializeError, req: () => undefined, res: () => undefined },
  };
  return destination ? pino(options, destination) : pino(options);
}

/** Type, message, code, stack and cause; nothing else that a library may hang on its errors (bodies, buffers, sockets). */
export function serializeError(error: unknown, depth = 0): unknown {
  if (!(error instanceof Error)) return { type: typeof error };
  const { name: type, message, stack } = error;
  const code: unknown = "code" in error ? error.code : undefined;
  const cause = error.cause !== undefined && depth < 3 ? { cause: serializeError(error.cause, depth + 1) } : {};
  return { type, message, ...(typeof code === "string" ? { code } : {}), stack, ...cause };
}
