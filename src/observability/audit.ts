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
  /** Of a refused key, too; see keyLabel in users/api-key.ts. */
  readonly key_id: string | null;
  /** The client's IP address; null: no client asked for it. */
  readonly address: string | null;
  /** The object: a user, `user/key id` or `user/prefix`. */
  readonly target?: string | undefined;
  readonly digest?: string | undefined;
  readonly changes?: Changes | undefined;
  /** null: no request asked for it. */
  readonly request_id: string | null;
}

/** What an action changed, by field. Of lists, only what came and went. */
export type Changes = Readonly<
  Record<
    string,
    | { readonly before: unknown; readonly after: unknown }
    | { readonly added: readonly string[]; readonly removed: readonly string[] }
  >
>;

/** The fields whose values differ. Values are plain data; objects are compared field by field, as `limits.max_queued`. */
export function changesOf(before: Fields, after: Fields): Changes {
  const changes: Record<string, Changes[string]> = {};
  for (const [name, [old, now]] of Object.entries(pairs(before, after))) {
    if (Array.isArray(old) || Array.isArray(now)) {
      const [had, has] = [old ?? [], now ?? []] as [string[], string[]];
      const [added, removed] = [without(has, had), without(had, has)];
      if (added.length + removed.length > 0) changes[name] = { added, removed };
    } else if (isFields(old) || isFields(now)) {
      const inner = changesOf(isFields(old) ? old : {}, isFields(now) ? now : {});
      for (const [field, change] of Object.entries(inner)) changes[`${name}.${field}`] = change;
    } else if (old !== now) changes[name] = { before: old, after: now };
  }
  return changes;
}

type Fields = Readonly<Record<string, unknown>>;

const isFields = (value: unknown): value is Fields => typeof value === "object" && value !== null;

function pairs(before: Fields, after: Fields): Record<string, [unknown, unknown]> {
  const names = new Set([...Object.keys(before), ...Object.keys(after)]);
  return Object.fromEntries([...names].map((name) => [name, [before[name] ?? null, after[name] ?? null]]));
}

function without(items: readonly string[], others: readonly string[]): string[] {
  const known = new Set(others);
  return items.filter((item) => !known.has(item));
}

export interface AuditLog {
  record(entry: AuditEntry): void;
}

/**
 * Appends to the file, each line before the next request is processed; without a file, lines go to the ordinary log.
 * While the file cannot be written, they also go to the ordinary log, marked `audit`. `replica` names this server in
 * the file's lines; the logger's have its own name for it.
 */
export function createAuditLog(file: string, logger: Logger, secrets?: SecretFilter, replica?: string): AuditLog {
  const ordinary = logger.child({ audit: true });
  if (file === "") return { record: (entry) => ordinary.info({ ...entry }, "audit") };
  let failed: Error | null = null;
  const lines = createLogger(
    "info",
    logDestination(file, (error) => (failed = error)),
    secrets,
    replica,
  );
  return {
    record(entry) {
      failed = null;
      lines.info({ ...entry }, "audit");
      if (failed !== null) ordinary.error({ ...entry, err: failed }, "audit: the file cannot be written");
    },
  };
}
