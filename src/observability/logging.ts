import { pino, type DestinationStream, type Logger } from "pino";
import { NO_SECRETS, type SecretFilter } from "./secrets.ts";

export type { Logger } from "pino";

/** Keys that never reach a log line, wherever a caller puts an object that has them. */
const SECRET_KEYS = ["authorization", "cookie", "prompt", "prompts", "text", "token_ids", "stop", "key"];

/**
 * JSON lines with ISO times and level names. Requests are logged by what the access log picks, never whole: pino's own serialisers,
 * which print URLs and headers, are replaced. Redaction is the second fence; the third are the secrets that are looked for in each whole line.
 */
export function createLogger(
  level: string,
  destination?: DestinationStream,
  secrets: SecretFilter = NO_SECRETS,
): Logger {
  const options = {
    level,
    base: { name: "prefixd" },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
    redact: { paths: SECRET_KEYS.flatMap((key) => [key, `*.${key}`, `*.*.${key}`]), censor: "[redacted]" },
    hooks: { streamWrite: (line: string) => secrets.clean(line) },
    serializers: { err: serializeError, req: () => undefined, res: () => undefined },
  };
  return pino(options, destination ?? logDestination(process.stdout.fd));
}

/** Bytes of lines that are kept while their file cannot take them; what comes then is dropped. */
const MAX_WAITING_BYTES = 1 << 20;

/**
 * A file, or a file descriptor, to which each line is written at once. One that cannot be written (its disk is full, its reader is
 * gone) must not end the process: lines wait for it, and go with the next one that it takes. `onError` hears of every line that was not
 * written at once.
 */
export function logDestination(dest: string | number, onError: (error: Error) => void = () => {}): DestinationStream {
  const stream = pino.destination({ dest, append: true, sync: true, maxLength: MAX_WAITING_BYTES });
  // pino's own listener gives up after the first error, and throws what nobody else listens for.
  stream.removeAllListeners("error");
  stream.on("error", onError);
  // At its limit it tries nothing any more by itself.
  stream.on("drop", () => {
    onError(new Error("a line was dropped"));
    stream.write("");
  });
  return stream;
}

/** Type, message, code, stack and cause; nothing else that a library may hang on its errors (bodies, buffers, sockets). */
export function serializeError(error: unknown, depth = 0): unknown {
  if (!(error instanceof Error)) return { type: typeof error };
  const { name: type, message, stack } = error;
  const code: unknown = "code" in error ? error.code : undefined;
  const cause = error.cause !== undefined && depth < 3 ? { cause: serializeError(error.cause, depth + 1) } : {};
  return { type, message, ...(typeof code === "string" ? { code } : {}), stack, ...cause };
}
