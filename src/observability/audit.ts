import { createLogger, logDestination, type Logger } from "./logging.ts";
import type { SecretFilter } from "./secrets.ts";

/** One thing that was done, or tried, and by whom. Ids and digests only: never a key, a prompt or an answer's text. */
export interface AuditEntry {
  /** Such as `user.create`; `authenticate` for a request that was refused for its key. */
  readonly action: string;
  /** `ok`, or the error's code. */
  readonly outcome: string;
  /** Who: null when that is not known. */
  readonly user: string | null;
  readonly key_id: string | null;
  /** To what: a user, `user/key id` or `user/prefix`. */
  readonly target?: string | undefined;
  readonly digest?: string | undefined;
  readonly request_id: string;
}

export interface AuditLog {
  record(entry: AuditEntry): void;
}

/**
 * Appends to the file, line by line before the next request is looked at; without one the lines go to the ordinary log. So they do
 * while the file cannot be written: the ordinary log then has them besides, marked `audit`.
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
