import { createHash, timingSafeEqual } from "node:crypto";
import { keyLabel } from "./api-key.ts";

interface AdminKey {
  /** As in the audit log; see keyLabel. */
  readonly id: string;
  readonly digest: Buffer;
}

/** The keys with which requests have the admin's rights. More than one while a new key takes an old one's place. */
export class AdminKeys {
  #keys: readonly AdminKey[];

  constructor(keys: readonly string[]) {
    this.#keys = keys.map(toAdminKey);
  }

  /** The id of this admin key; null: it is none. Takes the same time for every text of the same length. */
  idOf(key: string): string | null {
    // Digests have a fixed length, so timing does not reveal the length of a key.
    const digest = sha256(key);
    let found: string | null = null;
    for (const known of this.#keys) if (timingSafeEqual(digest, known.digest)) found = known.id;
    return found;
  }

  /** Takes effect at once, for all keys together. Returns the ids of those that are new and of those that are gone. */
  replace(keys: readonly string[]): { readonly added: string[]; readonly removed: string[] } {
    const before = this.#keys;
    this.#keys = keys.map(toAdminKey);
    return { added: idsWithout(this.#keys, before), removed: idsWithout(before, this.#keys) };
  }
}

const toAdminKey = (key: string): AdminKey => ({ id: keyLabel(key), digest: sha256(key) });

const idsWithout = (keys: readonly AdminKey[], others: readonly AdminKey[]): string[] =>
  keys.filter(({ digest }) => !others.some((other) => other.digest.equals(digest))).map(({ id }) => id);

function sha256(text: string): Buffer {
  return createHash("sha256").update(text).digest();
}
