/**
 * Every name of users in Redis. A user's keys carry the hash tag `{user}`, as its prefixes do, so that one script can
 * change them together. The indexes are in other slots of a Cluster, so they are hints; the user's keys are
 * authoritative.
 *
 *   prefixd:{user}:user          string: User as JSON
 *   prefixd:{user}:keys          hash: key id -> ApiKeyRecord as JSON
 *   prefixd:{user}:usage         hash: `ROW COUNTER` -> integer; ROW as in usageRowName
 *   prefixd:{user}:usage-rows    sorted set of row names, all with score 0, for paging in order
 *   prefixd:{user}:usage-days    hash: `DAY COUNTER` -> integer, summed over all rows of the day
 *   prefixd:{user}:flushes       sorted set: id of a usage flush -> time it was added; expires (usage.ts)
 *   prefixd:{user}:tokens        hash: the bucket of tokens per minute; expires (token-rate.ts)
 *   prefixd:key:KEYID            string: the user who may have this key
 *   prefixd:users                sorted set of user ids, all with score 0, for paging in order
 *   prefixd:deletions            sorted set: deletion hash of a user or key -> its time in milliseconds
 *   prefixd:usage-kept           sorted set of ids of removed users whose usage was kept, all with score 0
 *   prefixd:user-changes         channel: JSON [origin, user]
 */
import { userTag } from "./prefix-keys.ts";

export class RedisUserKeys {
  readonly users: string;
  readonly usageKept: string;
  readonly changes: string;
  readonly deletions: string;
  readonly #namespace: string;

  constructor(namespace: string) {
    this.#namespace = namespace;
    this.users = `${namespace}:users`;
    this.usageKept = `${namespace}:usage-kept`;
    this.changes = `${namespace}:user-changes`;
    this.deletions = `${namespace}:deletions`;
  }

  user(user: string): string {
    return `${this.#tag(user)}:user`;
  }

  keys(user: string): string {
    return `${this.#tag(user)}:keys`;
  }

  usage(user: string): string {
    return `${this.#tag(user)}:usage`;
  }

  usageRows(user: string): string {
    return `${this.#tag(user)}:usage-rows`;
  }

  usageDays(user: string): string {
    return `${this.#tag(user)}:usage-days`;
  }

  flushes(user: string): string {
    return `${this.#tag(user)}:flushes`;
  }

  key(keyId: string): string {
    return `${this.#namespace}:key:${keyId}`;
  }

  tokens(user: string): string {
    return `${this.#tag(user)}:tokens`;
  }

  #tag(user: string): string {
    return userTag(this.#namespace, user);
  }
}
