import { pino } from "pino";
import { createLogger, type Logger } from "./logging.ts";

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

/** Appends to the file, line by line before the next request is looked at; without one the lines go to the ordinary log. */
export function createAuditLog(file: string, logger: Logger): AuditLog {
  const lines = file === "" ? logger.child({ audit: true }) : createLogger("info", pino.destination({ dest: file, append: true, sync: true }));
  return { record: (entry) => lines.info({ ...entry }, "audit") };
}
