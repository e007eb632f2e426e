import type { ContentsCheck } from "./check.ts";
import { Damage } from "./format.ts";
import { unsealJson } from "./sealed.ts";
import type { ApiKeyRecord, User } from "../users/types.ts";

const TABLES: ReadonlySet<string> = new Set(["users", "keys", "user-keys", "usage", "usage-days", "deletions"]);

/**
 * Checks that each record is stored under its own id, and each key also under its user; otherwise one user's key could
 * act for another user.
 */
export class UserContents implements ContentsCheck {
  readonly #expected = new Set<string>();
  readonly #found = new Set<string>();

  entry(tree: string, key: string, _size: number, read: () => Buffer): void {
    if (!TABLES.has(tree)) throw new Damage("it has a table of no known name");
    const value = unsealJson(key, read());
    if (tree === "users" && (value as User).id !== key) throw new Damage("a user lies under another id");
    if (tree === "keys") {
      const { id, user } = value as ApiKeyRecord;
      if (id !== key) throw new Damage("a key lies under another id");
      this.#expected.add(`${user}/${id}`);
    }
    if (tree === "user-keys") this.#found.add(key);
  }

  end(): void {
    if (this.#found.size !== this.#expected.size || [...this.#found].some((key) => !this.#expected.has(key)))
      throw new Damage("its keys are not those of its users");
  }
}
