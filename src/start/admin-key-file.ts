import { statSync } from "node:fs";
import { ConfigError } from "../errors.ts";
import { isWorldReadable, readAdminKeys } from "../key-files.ts";
import type { AuditLog } from "../observability/audit.ts";
import type { Logger } from "../observability/logging.ts";
import type { SecretFilter } from "../observability/secrets.ts";
import type { AdminKeys } from "../users/admin-keys.ts";

export interface AdminKeyFileParts {
  readonly file: string;
  readonly keys: AdminKeys;
  readonly secrets: SecretFilter;
  readonly logger: Logger;
  readonly audit: AuditLog;
  /** How often the file is looked at, in milliseconds. */
  readonly intervalMs?: number;
}

/**
 * Takes over the admin keys whenever their file changes, all at once; a file without valid keys changes nothing. Looks
 * at the file's times rather than for the system's events, which a mounted secret does not always cause. Returns a
 * function that ends it.
 */
export function watchAdminKeys(parts: AdminKeyFileParts): () => void {
  const { file, keys, secrets, logger, audit, intervalMs = 1000 } = parts;
  const read = (): void => {
    let lines: string[];
    try {
      lines = readAdminKeys(file, {});
      if (isWorldReadable(file))
        logger.warn({ file }, "the file of the admin key can be read by everybody on this machine");
    } catch (error) {
      const reason = error instanceof ConfigError ? error.message : String(error);
      logger.error({ reason }, "the admin keys stay as they were: their file cannot be used");
      return;
    }
    // First, so that no line shows a key.
    secrets.add(lines);
    const change = keys.replace(lines);
    if (change.added.length + change.removed.length === 0) return;
    logger.info(change, "the admin keys have changed");
    audit.record({
      action: "admin_keys.change",
      outcome: "ok",
      user: null,
      key_id: null,
      address: null,
      changes: { admin_keys: change },
      request_id: null,
    });
  };
  let seen: string | null = null;
  const look = (): void => {
    // Before reading, so that a change while it is read is seen the next time.
    const now = stateOf(file);
    if (now === seen) return;
    seen = now;
    read();
  };
  // It may have changed since the start read it.
  look();
  const timer = setInterval(look, intervalMs).unref();
  return () => clearInterval(timer);
}

/** What changes whenever the file does. */
function stateOf(file: string): string {
  try {
    const { dev, ino, size, mtimeNs, ctimeNs, mode } = statSync(file, { bigint: true });
    return [dev, ino, size, mtimeNs, ctimeNs, mode].join();
  } catch (error) {
    return String((error as NodeJS.ErrnoException).code);
  }
}
