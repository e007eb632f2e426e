import { pino, type DestinationStream, type Logger } from "pino";
import { NO_SECRETS, type SecretFilter } from "./secrets.ts";

export type { Logger } from "pino";

/** Keys redacted from log lines, wherever a logged object has them. */
const SECRET_KEYS = ["authorization", "cookie", "prompt", "prompts", "text", "token_ids", "stop", "key"];

/**
 * JSON lines with ISO times and level names. Requests are logged only as the fields that the access log picks: pino's
 * own serialisers, which print URLs and headers, are replaced. Redaction is the second line of defence; searching each
 * whole line for secrets is the third. `replica` names this server in each line.
 */
export function createLogger(
  level: string,
  destination?: DestinationStream,
  secrets: SecretFilter = NO_SECRETS,
  replica?: string,
): Logger {
  const options = {
    level,
    base: { name: "prefixd", ...(replica === undefined ? {} : { replica }) },
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
    redact: { paths: SECRET_KEYS.flatMap((key) => [key, `*.${key}`, `*.*.${key}`]), censor: "[redacted]" },
    hooks: { streamWrite: (line: string) => secrets.clean(line) },
    serializers: { err: serializeError, req: () => undefined, res: () => undefined },
  };
  return pino(options, destination ?? logDestination(process.stdout.fd));
}

/** Bytes of lines buffered while the file cannot be written; beyond it, lines are dropped. */
const MAX_WAITING_BYTES = 1 << 20;

/**
 * A file or file descriptor, written synchronously line by line. A failed write (disk full, reader gone) must not end
 * the process: lines are buffered and go out with the next successful write. `onError` is called for every line not
 * written at once.
 */
export function logDestination(dest: string | number, onError: (error: Error) => void = () => {}): DestinationStream {
  const stream = pino.destination({ dest, append: true, sync: true, maxLength: MAX_WAITING_BYTES });
  // pino's own listener gives up after the first error, and rethrows if there is no other listener.
  stream.removeAllListeners("error");
  stream.on("error", onError);
  // Once the buffer is full, it does not retry by itself.
  stream.on("drop", () => {
    onError(new Error("a line was dropped"));
    stream.write("");
  });
  return stream;
}

/** Type, message, code, stack and cause only, since libraries attach bodies, buffers and sockets to errors. */
export function serializeError(error: unknown, depth = 0): unknown {
  if (!(error instanceof Error)) return { type: typeof error };
  const { name: type, message, stack } = error;
  const code: unknown = "code" in error ? error.code : undefined;
  const cause = error.cause !== undefined && depth < 3 ? { cause: serializeError(error.cause, depth + 1) } : {};
  return { type, message, ...(typeof code === "string" ? { code } : {}), stack, ...cause };
}
