import { isDeepStrictEqual } from "node:util";
import { PrefixdError } from "../errors.ts";
import { isPrefixName } from "../prefixes/name.ts";
import { sharingOf } from "../prefixes/sharing.ts";
import type { PrefixMeta, PrefixRecord, PrefixStore, SharingPatch } from "../prefixes/store.ts";
import { deletionHash } from "../users/deletions.ts";
import type { UserStore } from "../users/store.ts";
import type { ApiKeyRecord, User } from "../users/types.ts";
import { isBuiltInUser, isUserId } from "../users/user-id.ts";
import { ArchiveError } from "./archive-error.ts";
import { guestTimes } from "./export.ts";
import { importUsage } from "./import-usage.ts";
import type { ReadRecord } from "./reader.ts";
import { filePart, KV_PART, type PrefixLine, type UserRecord } from "./records.ts";

/** What an import reads and writes. */
export interface ArchiveTarget {
  readonly users: Pick<
    UserStore,
    "getUser" | "createUser" | "patchUser" | "findKey" | "putKey" | "usage" | "addUsage" | "deletedAt" | "noteDeletions"
  >;
  readonly prefixes: Pick<
    PrefixStore,
    "head" | "put" | "patchMeta" | "loadKv" | "loadFile" | "removalState" | "readmitUser"
  >;
}

export interface ImportOptions {
  /** Only what belongs to these users; absent: to all. */
  readonly users?: readonly string[];
  /** Overwrite what is there with other content. */
  readonly replace?: boolean;
  /** Users who come back although they, or keys of theirs, were deleted here since. */
  readonly bringBack?: readonly string[];
  /** Called for everything that is not imported, with a sentence that says why. */
  readonly onProblem?: (text: string) => void;
}

type Counted = "users" | "keys" | "prefixes" | "grants" | "usage_rows";

/** What became of the records. */
export interface ImportResult {
  /** New here, or replaced. */
  readonly imported: Record<Counted, number>;
  /** There already, with the same content. */
  readonly present: Record<Counted, number>;
  /** Deleted here since the export, or of users who are. */
  readonly deleted: number;
  /** There with other content, and left as it is. */
  readonly conflicts: number;
  /** Damaged in the store that was exported. */
  readonly damaged: number;
}

/**
 * Writes an export's records to a store. Each is written whole or not at all, and what is there already is left: after
 * an interruption the same import goes on. Throws what the records throw, ArchiveError for records that contradict
 * themselves, and the store's errors.
 */
export async function importArchive(
  records: AsyncIterable<ReadRecord>,
  target: ArchiveTarget,
  options: ImportOptions = {},
): Promise<ImportResult> {
  const run = new Import(target, options);
  for await (const { record, parts } of records) {
    if (record.kind === "deletions") await target.users.noteDeletions(record.deletions);
    else if (record.kind === "user") await run.user(record);
    else if (record.kind === "prefix") await run.prefix(record, parts);
    else if (record.kind === "usage" && (await run.isOwner(record.user, record.created, "usage"))) {
      const { added, present } = await importUsage(target.users, record);
      run.result.imported.usage_rows += added;
      run.result.present.usage_rows += present;
    } else if (record.kind === "damaged" && run.wants(record.user)) {
      run.result.damaged++;
      run.problem(`prefix ${record.user}/${record.name}: it was damaged in the store that was exported`);
    }
  }
  return run.result;
}

const none = (): Record<Counted, number> => ({ users: 0, keys: 0, prefixes: 0, grants: 0, usage_rows: 0 });

class Import {
  readonly result = { imported: none(), present: none(), deleted: 0, conflicts: 0, damaged: 0 };
  readonly problem: (text: string) => void;
  readonly #users: ArchiveTarget["users"];
  readonly #prefixes: ArchiveTarget["prefixes"];
  readonly #only: ReadonlySet<string> | null;
  readonly #replace: boolean;
  readonly #bringBack: ReadonlySet<string>;
  /** Owners who are not here and were told of. */
  readonly #told = new Set<string>();
  /** Asked for owners and guests; users are imported before anything asks. */
  readonly #created: (id: string) => Promise<string | null>;

  constructor({ users, prefixes }: ArchiveTarget, options: ImportOptions) {
    this.#users = users;
    this.#prefixes = prefixes;
    this.#only = options.users === undefined ? null : new Set(options.users);
    this.#replace = options.replace === true;
    this.#bringBack = new Set(options.bringBack);
    this.#created = guestTimes(users);
    this.problem = options.onProblem ?? (() => {});
  }

  wants(user: string): boolean {
    return this.#only === null || this.#only.has(user);
  }

  async user({ user, keys }: UserRecord): Promise<void> {
    if (!this.wants(user.id)) return;
    if (!isUserId(user.id) || keys.some((key) => key.user !== user.id))
      throw new ArchiveError(`the export has a user whose id, or a key's, is not valid: ${JSON.stringify(user.id)}`);
    const there = await this.#users.getUser(user.id);
    if (!(await (there === null ? this.#createUser(user) : this.#meetUser(there, user)))) return;
    for (const key of keys) await this.#putKey(key);
  }

  async prefix(line: PrefixLine, parts: readonly Uint8Array[]): Promise<void> {
    const { meta } = line;
    const text = `prefix ${meta.user}/${meta.name}`;
    if (!(await this.isOwner(meta.user, line.created, text))) return;
    const record = recordOf(line, parts);
    const there = await this.#prefixes.head(meta);
    if (there !== null && (await this.#isSame(there, record))) this.result.present.prefixes++;
    else if (there !== null && !this.#replace)
      return this.#conflict(`${text}: there is another, of digest ${there.digest} and ${there.updatedAt}`);
    else {
      await this.#prefixes.put(record, {
        precondition: there === null ? { ifNoneMatch: "*" } : { ifMatch: [there.digest] },
      });
      this.result.imported.prefixes++;
    }
    await this.#grant(line, there, text);
  }

  /** Whether the owner of a record is the user who has this id here; otherwise tells. */
  async isOwner(user: string, created: string | null, what: string): Promise<boolean> {
    if (!this.wants(user)) return false;
    if (isBuiltInUser(user)) return true;
    const here = await this.#created(user);
    if (here !== null && here === created) return true;
    this.result.deleted++;
    if (!this.#told.has(user))
      this.problem(
        `${what} and what else user ${user} has: ${here === null ? "this user is not here" : "another user of this id is here"}`,
      );
    this.#told.add(user);
    return false;
  }

  /** False if the user was removed here since. */
  async #createUser(user: User): Promise<boolean> {
    const [deleted = null] = await this.#users.deletedAt([deletionHash("user", user.id)]);
    if (deleted !== null && deleted >= user.createdAt && !this.#bringBack.has(user.id)) {
      this.result.deleted++;
      this.problem(`user ${user.id}: removed here at ${deleted}; --bring-back ${user.id} would import it`);
      return false;
    }
    const state = await this.#prefixes.removalState(user.id);
    if (state === "open") {
      this.#conflict(`user ${user.id}: its removal is not finished; repeat it, then the import`);
      return false;
    }
    if (state === "done") await this.#prefixes.readmitUser(user.id);
    await this.#users.createUser(user);
    this.result.imported.users++;
    return true;
  }

  /** False if the user who is there is another one. */
  async #meetUser(there: User, user: User): Promise<boolean> {
    if (there.createdAt !== user.createdAt) {
      this.#conflict(`user ${user.id}: another user of this id was created here at ${there.createdAt}`);
      return false;
    }
    if (isDeepStrictEqual({ ...there, updatedAt: "" }, { ...user, updatedAt: "" })) this.result.present.users++;
    else if (this.#replace) {
      const { weight, limits, suspended = false } = user;
      await this.#users.patchUser(user.id, { weight, limits, suspended }, user.updatedAt);
      this.result.imported.users++;
    } else this.#conflict(`user ${user.id}: its weight, limits or suspension are others here`);
    return true;
  }

  async #putKey(key: ApiKeyRecord): Promise<void> {
    const there = await this.#users.findKey(key.id);
    if (there !== null && there.user === key.user && there.hash === key.hash) return void this.result.present.keys++;
    if (there !== null) return this.#conflict(`key ${key.user}/${key.id}: there is another of this id`);
    const [deleted = null] = await this.#users.deletedAt([deletionHash("key", key.id)]);
    if (deleted !== null && !this.#bringBack.has(key.user)) {
      this.result.deleted++;
      return this.problem(`key ${key.user}/${key.id}: deleted here at ${deleted}`);
    }
    try {
      await this.#users.putKey(key);
      this.result.imported.keys++;
    } catch (error) {
      if (!(error instanceof PrefixdError) || error.code !== "too_many_keys") throw error;
      this.#conflict(`key ${key.user}/${key.id}: ${error.message}`);
    }
  }

  /** Files are compared only where the same version would not have been written at the same time. */
  async #isSame(there: PrefixMeta, { meta, kv, files }: PrefixRecord): Promise<boolean> {
    if (there.digest !== meta.digest || !isDeepStrictEqual(there.files, meta.files)) return false;
    if (there.updatedAt === meta.updatedAt) return true;
    try {
      if (!isEqual(await this.#prefixes.loadKv(there, there.digest), kv)) return false;
      for (const [name, content] of files)
        if (!isEqual(await this.#prefixes.loadFile(there, there.digest, name), content)) return false;
      return true;
    } catch (error) {
      if (error instanceof PrefixdError && error.code === "prefix_damaged") return false;
      throw error;
    }
  }

  /** Shares the prefix with those of its guests who are the same users here. */
  async #grant({ meta, guests }: PrefixLine, there: PrefixMeta | null, text: string): Promise<void> {
    const known = new Set<string>();
    for (const [guest, created] of Object.entries(guests))
      if (isBuiltInUser(guest) || (created !== null && (await this.#created(guest)) === created)) known.add(guest);
      else {
        this.result.deleted++;
        this.problem(`${text}: not shared with ${guest}, who is not here`);
      }
    const wanted = grantsOf(meta, known);
    const count = new Set([...wanted.shared_with, ...wanted.readable_by]).size;
    const now = there === null ? {} : sharingOf(there);
    if (isDeepStrictEqual(wanted, grantsOf(now))) this.result.present.grants += count;
    else if (Object.keys(now).length === 0 || this.#replace) {
      await this.#prefixes.patchMeta({ user: meta.user, name: meta.name }, wanted);
      this.result.imported.grants += count;
    } else this.#conflict(`${text}: it is shared otherwise here`);
  }

  #conflict(text: string): void {
    this.result.conflicts++;
    this.problem(text);
  }
}

/** Sharing with every field; without those who are not `known`. */
function grantsOf(sharing: SharingPatch, known?: ReadonlySet<string>): Required<SharingPatch> {
  const some = (users: readonly string[] | undefined): string[] =>
    (users ?? []).filter((user) => known?.has(user) !== false);
  return {
    visibility: sharing.visibility ?? "private",
    shared_with: some(sharing.shared_with),
    readable_by: some(sharing.readable_by),
  };
}

/** Throws ArchiveError if the parts are not those of the prefix. */
function recordOf({ meta, parts }: PrefixLine, contents: readonly Uint8Array[]): PrefixRecord {
  const wanted = [[KV_PART, meta.bytes], ...Object.entries(meta.files).map(([name, bytes]) => [filePart(name), bytes])];
  if (
    !isPrefixName(meta.name) ||
    !isDeepStrictEqual(
      wanted,
      parts.map(({ name, bytes }) => [name, bytes]),
    )
  )
    throw new ArchiveError(`the prefix ${JSON.stringify(`${meta.user}/${meta.name}`)} has other parts than it names`);
  const [kv, ...rest] = contents;
  return { meta, kv: kv!, files: new Map(Object.keys(meta.files).map((name, i) => [name, rest[i]!])) };
}

function isEqual(stored: Uint8Array | null, bytes: Uint8Array): boolean {
  return stored !== null && Buffer.compare(stored, bytes) === 0;
}
