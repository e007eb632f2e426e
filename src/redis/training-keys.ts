/**
 * Every name of training in Redis. A user's keys carry the hash tag `{user}`, as its prefixes do, so that one script can
 * change them together, and a prefix is registered only while its job is held.
 *
 *   prefixd:{user}:training:files           sorted set, all scores 0, of `ID BLOB JSON`; BLOB as in training-blobs.ts
 *   prefixd:{user}:training:bytes           integer: bytes of all of them
 *   prefixd:{user}:training:jobs            sorted set of job ids, all with score 0
 *   prefixd:{user}:training:open            the same of those that have not ended
 *   prefixd:{user}:training:job:ID          hash: record (JSON, as it was created), status, step, steps, tokens, attempts,
 *                                           finishedAt, error (JSON), holder, beat (changes with each renewal), spent,
 *                                           sealed, state (a BLOB)
 *   prefixd:{user}:training:events:ID       sorted set, all scores 0, of `EVENT JSON`
 *   prefixd:{user}:training:checkpoints:ID  the same of checkpoints
 *   prefixd:{user}:training:tokens          hash: day -> tokens trained on; expires
 *   prefixd:{user}:training:arriving        sorted set of blobs that nothing refers to yet, by expiry; expires
 *   prefixd:{user}:training:blob:BLOB       hash: number -> bytes of a chunk; expires until something refers to it
 *   prefixd:training-users                  sorted set of users by the time of their last new job: those who may have
 *                                           jobs that have not ended. A hint (training-queue.ts)
 */
import { userTag } from "./prefix-keys.ts";

export class RedisTrainingKeys {
  readonly users: string;
  readonly #namespace: string;

  constructor(namespace: string) {
    this.#namespace = namespace;
    this.users = `${namespace}:training-users`;
  }

  files(user: string): string {
    return `${this.base(user)}files`;
  }

  bytes(user: string): string {
    return `${this.base(user)}bytes`;
  }

  jobs(user: string): string {
    return `${this.base(user)}jobs`;
  }

  open(user: string): string {
    return `${this.base(user)}open`;
  }

  job(user: string, id: string): string {
    return `${this.base(user)}job:${id}`;
  }

  events(user: string, job: string): string {
    return `${this.base(user)}events:${job}`;
  }

  checkpoints(user: string, job: string): string {
    return `${this.base(user)}checkpoints:${job}`;
  }

  tokens(user: string): string {
    return `${this.base(user)}tokens`;
  }

  arriving(user: string): string {
    return `${this.base(user)}arriving`;
  }

  blob(user: string, id: string): string {
    return `${this.base(user)}blob:${id}`;
  }

  /** The prefix store's mark of a removal. */
  removed(user: string): string {
    return `${userTag(this.#namespace, user)}:removed`;
  }

  /** Prefix of all of the user's keys of training. */
  base(user: string): string {
    return `${userTag(this.#namespace, user)}:training:`;
  }
}
