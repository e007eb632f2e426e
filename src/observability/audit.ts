import { createLogger, logDestination, type Logger } from "./logging.ts";
import type { SecretFilter } from "./secrets.ts";

/** One action, done or attempted, and who did it. Only ids and digests: never a key, a prompt or generated text. */
export interface AuditEntry {
  /** For example `user.create`; `authenticate` for a request rejected for its key. */
  readonly action: string;
  /** `ok`, or the error's code. */
  readonly outcome: string;
  /** The acting user; null if unknown. */
  readonly user: string | null;
  readonly key_id: string | null;
  /** The object: a user, `user/key id` or `user/prefix`. */
  readonly target?: string | undefined;
  readonly digest?: string | undefined;
  readonly request_id: string;
}

export interface AuditLog {
  record(entry: AuditEntry): void;
}

/**
 * Appends to the file, each line before the next request is processed; without a file, lines go to the ordinary log.
 * While the file cannot be written, they also go to the ordinary log, marked `audit`.
 */
export function createAuditLog(file: string, logger: Logger, secrets?: SecretFilter): AuditLog {
  const ordinary = logger.child({ audit: true });
  if (file === "") return { record: (entry) => ordinary.info({ ...entry }, "audit") };
  let failed: Error | null = null;
  const lines = createLogger(
    "info",
    logDestination(file, (error) => (failed = error)),
    secrets,
  );
  return {
    record(entry) {
      failed = null;
      lines.info({ ...entry }, "audit");
      if (failed !== null) ordinary.error({ ...entry, err: failed }, "audit: the file cannot be written");
    },
  };
}
