/**
 * Every name that prefixd uses in Redis. All of a user's keys carry the hash tag `{user}`, so that they share a slot of
 * a Cluster and one script can change them together.
 *
 *   prefixd:{user}:prefixes            hash: name -> entry (JSON: metadata and the places of the chunks), and once it
 *                                      has been shared up to three more lines: visibility, JSON list of those who may
 *                                      use it, JSON list of those who may read it
 *   prefixd:{user}:names               sorted set of names, all with score 0, for paging in order
 *   prefixd:{user}:versions            hash: name -> entries (JSON, one a line) of earlier versions, the one replaced
 *                                      last first
 *   prefixd:{user}:bytes               string: bytes of all tensors of the user's prefixes, earlier versions' included;
 *                                      counted if missing
 *   prefixd:{user}:unsettled           hash: `guest/name` -> change: access granted or revoked that the guest's index
 *                                      does not know yet
 *   prefixd:{user}:shared              sorted set of `owner/name`, all with score 0: others' prefixes that the user may
 *                                      use; with `=` as the user: those that every user may use. A hint (shares.ts)
 *   prefixd:{user}:shared-changes      integer: number of additions to it
 *   prefixd:settling                   sorted set of `owner/ID` by time in milliseconds: changes by an owner that may
 *                                      have left notes (shares.ts)
 *   prefixd:shares-built               string: exists once prefixes that predate the index are in it
 *   prefixd:{user}:uploads             sorted set of chunk sets without an entry (not yet, or no longer), by expiry
 *   prefixd:{user}:removed             string "open" or "done": the user is being, or has been removed; expires. PUTs
 *                                      are refused
 *   prefixd:{user}:chunk:UPLOAD:NUMBER string of at most CHUNK_BYTES; UPLOAD is unique to one PUT
 *   prefixd:changes                    channel: JSON [origin, user, name]
 */
export class RedisKeys {
  readonly changes: string;
  readonly sharesBuilt: string;
  readonly settling: string;
  readonly #namespace: string;

  constructor(namespace: string) {
    this.#namespace = namespace;
    this.changes = `${namespace}:changes`;
    this.sharesBuilt = `${namespace}:shares-built`;
    this.settling = `${namespace}:settling`;
  }

  prefixes(user: string): string {
    return `${this.#user(user)}:prefixes`;
  }

  names(user: string): string {
    return `${this.#user(user)}:names`;
  }

  versions(user: string): string {
    return `${this.#user(user)}:versions`;
  }

  bytes(user: string): string {
    return `${this.#user(user)}:bytes`;
  }

  unsettled(user: string): string {
    return `${this.#user(user)}:unsettled`;
  }

  shared(user: string): string {
    return `${this.#user(user)}:shared`;
  }

  sharedChanges(user: string): string {
    return `${this.#user(user)}:shared-changes`;
  }

  /** A SCAN pattern that finds the users with prefixes, and the user of a matching key. */
  get allPrefixes(): string {
    return `${this.#namespace.replace(/[\\*?[\]]/g, "\\$&")}:{*}:prefixes`;
  }

  userOfPrefixes(key: string): string {
    return decodeURIComponent(key.slice(this.#namespace.length + ":{".length, -"}:prefixes".length));
  }

  uploads(user: string): string {
    return `${this.#user(user)}:uploads`;
  }

  removed(user: string): string {
    return `${this.#user(user)}:removed`;
  }

  /** Prefix of the keys of a user's chunks. */
  chunks(user: string): string {
    return `${this.#user(user)}:chunk:`;
  }

  chunk(user: string, upload: string, number: number): string {
    return `${this.chunks(user)}${upload}:${number}`;
  }

  #user(user: string): string {
    return userTag(this.#namespace, user);
  }
}

/** Prefix of all of a user's keys. Encoded, a user id cannot end the hash tag. */
export function userTag(namespace: string, user: string): string {
  return `${namespace}:{${encodeURIComponent(user)}}`;
}
