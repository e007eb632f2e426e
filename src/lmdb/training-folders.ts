/** Where training keeps its files. Nothing but their users' jobs and the record beside them knows of them. */
import { randomUUID } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, renameSync } from "node:fs";
import { join } from "node:path";
import { eraseFile, eraseFolder, syncFolder } from "./erase.ts";
import { userFolderName } from "./prefix-files.ts";

/**
 *   training/records/             an LMDB environment
 *   training/incoming/HASH.UUID   files that are being received
 *   training/users/HASH/files/ID  content of a file
 *   training/users/HASH/jobs/ID/  state and result of a job that has not ended
 */
export class TrainingFolders {
  readonly #dir: string;

  constructor(dir: string) {
    this.#dir = join(dir, "training");
  }

  get records(): string {
    return join(this.#dir, "records");
  }

  /** A new name. */
  incomingFile(user: string): string {
    return join(this.#incoming, `${userFolderName(user)}.${randomUUID()}`);
  }

  file(user: string, id: string): string {
    return join(this.#user(user), "files", id);
  }

  job(user: string, id: string): string {
    return join(this.#user(user), "jobs", id);
  }

  /** Moves a received file into place, durably. */
  keepFile(incoming: string, user: string, id: string): void {
    const place = join(this.#user(user), "files");
    mkdirSync(place, { recursive: true });
    renameSync(incoming, this.file(user, id));
    syncFolder(place);
  }

  eraseFile(user: string, id: string): void {
    if (existsSync(this.file(user, id))) eraseFile(this.file(user, id));
  }

  eraseJob(user: string, id: string): void {
    if (existsSync(this.job(user, id))) eraseFolder(this.job(user, id));
  }

  /** Also what is being received. */
  eraseUser(user: string): void {
    for (const name of readdirSync(this.#incoming))
      if (name.startsWith(userFolderName(user))) eraseFile(join(this.#incoming, name));
    if (existsSync(this.#user(user))) eraseFolder(this.#user(user));
  }

  /** Makes the folders, and erases what a crash left: half-received files, and those that no record names. */
  open(known: { readonly files: ReadonlySet<string>; readonly jobs: ReadonlySet<string> }): void {
    const users = join(this.#dir, "users");
    for (const dir of [users, this.#incoming]) mkdirSync(dir, { recursive: true });
    for (const name of readdirSync(this.#incoming)) eraseFile(join(this.#incoming, name));
    for (const user of readdirSync(users)) {
      for (const id of entries(join(users, user, "files")))
        if (!known.files.has(`${user}/${id}`)) eraseFile(join(users, user, "files", id));
      for (const id of entries(join(users, user, "jobs")))
        if (!known.jobs.has(`${user}/${id}`)) eraseFolder(join(users, user, "jobs", id));
    }
  }

  get #incoming(): string {
    return join(this.#dir, "incoming");
  }

  #user(user: string): string {
    return join(this.#dir, "users", userFolderName(user));
  }
}

/** How `open` is told of a user's record. */
export const folderKey = (user: string, id: string): string => `${userFolderName(user)}/${id}`;

const entries = (dir: string): string[] => (existsSync(dir) ? readdirSync(dir) : []);
