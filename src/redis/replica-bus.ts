import { randomUUID } from "node:crypto";
import { lostTouch, PrefixdError } from "../errors.ts";
import { accessRedis, toStoreError, type RedisAccess, type RedisConnection, type RedisUse } from "./connection.ts";
import { Heartbeats, LEFT } from "../replicas/heartbeats.ts";
import { ACKNOWLEDGE, COLLECT, FORGET, LEAVE, RENEW, ReplicaKeys, SEND, STRIKE_OFF } from "./replica-keys.ts";
import type {
  BroadcastResult,
  EndedOnReplica,
  ReplicaBus,
  ReplicaCommand,
  ReplicaHandler,
} from "../replicas/replica-bus.ts";

export type RedisReplicaBusOptions = RedisAccess & {
  /** Prefix of all keys. Default `prefixd`. */
  readonly namespace?: string;
  /** This replica's name, without a slash. Default `replica`. */
  readonly name?: string;
  /** Milliseconds that a replica may serve after requesting its last renewal. Default 10,000. */
  readonly leaseMs?: number;
  /** Milliseconds that a broadcast waits for a live replica to answer. Default 60,000. */
  readonly answerMs?: number;
  readonly handler: ReplicaHandler;
  /** Called once when the lease has expired, before the next one begins. Must drop everything cached, at once. */
  readonly onLapse: () => void;
  /** Called for failures that will be retried. */
  readonly onError?: (error: Error) => void;
};

/**
 * Connects a replica to the others. Resolves within a command's time limit, with or without a lease. Throws as
 * `openRedis`.
 */
export async function openRedisReplicaBus(options: RedisReplicaBusOptions): Promise<ReplicaBus> {
  const bus = new RedisReplicaBus(await accessRedis(options), options);
  await bus.start();
  return bus;
}

/** Unfetched inboxes and acks expire after this time, far longer than any broadcast. */
const KEEP_MS = 600_000;
const POLL_MS = 20;

/**
 * A lease, renewed ten times as often as needed by a heartbeat in Redis. A replica counts its own lease from BEFORE the
 * renewal is sent, and others' from when it saw their beat change, each on its own monotonic clock. So a lease ends at
 * its holder first, however long messages take and whatever happens to Redis' clock. `margin` covers clocks of
 * different speeds and a renewal lost in a failover. It does not cover a clock that stops while a virtual machine is
 * suspended.
 */
class RedisReplicaBus implements ReplicaBus {
  /** The name and a random part, so that a receipt can name a replica that does not answer. */
  readonly id: string;
  readonly #connection: RedisConnection;
  readonly #release: () => void;
  readonly #keys: ReplicaKeys;
  readonly #options: RedisReplicaBusOptions;
  readonly #leaseMs: number;
  readonly #heartbeats: Heartbeats;
  #beats = 0;
  /** Commands being executed, or whose acknowledgement failed. */
  readonly #commands = new Map<string, Promise<EndedOnReplica>>();
  /** End of the lease, by performance.now(). */
  #validUntil = -Infinity;
  #lapsed = true;
  #lapseTimer: NodeJS.Timeout | undefined;
  #renewTimer: NodeJS.Timeout | undefined;
  #renewing: Promise<void> | null = null;
  #renewAgain = false;
  #closed = false;

  constructor({ redis, release }: RedisUse, options: RedisReplicaBusOptions) {
    this.id = `${options.name ?? "replica"}/${randomUUID()}`;
    this.#options = options;
    this.#leaseMs = options.leaseMs ?? 10_000;
    this.#heartbeats = new Heartbeats(this.#leaseMs * 1.2);
    this.#connection = redis;
    this.#release = release;
    this.#keys = new ReplicaKeys(options.namespace ?? "prefixd");
  }

  async start(): Promise<void> {
    this.#connection.subscribe(this.#keys.wake, () => void this.#renew());
    // Redis may have returned without the lease.
    this.#connection.onReady(() => void this.#renew());
    await this.#renew();
  }

  get validUntil(): number {
    return this.#validUntil;
  }

  mayServe(): boolean {
    return performance.now() < this.#validUntil;
  }

  async broadcast(command: ReplicaCommand): Promise<BroadcastResult> {
    if (!this.mayServe()) throw lostTouch();
    const id = randomUUID();
    try {
      const known = this.#heartbeats.living();
      this.#heartbeats.observe(
        (await this.#connection.run(
          SEND,
          [this.#keys.beats],
          [id, JSON.stringify(command), this.#keys.inboxes, this.#keys.wake, KEEP_MS, LEFT, ...known],
        )) as string[],
      );
      const told = this.#heartbeats.living();
      try {
        return await this.#collect(id, told);
      } finally {
        await this.#connection.run(FORGET, [this.#keys.acks(id)], [id, this.#keys.inboxes, ...told]);
      }
    } catch (error) {
      throw toStoreError(error);
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#validUntil = -Infinity;
    clearTimeout(this.#lapseTimer);
    clearTimeout(this.#renewTimer);
    await this.#renewing;
    await this.#connection
      .run(LEAVE, [this.#keys.beats, this.#keys.inbox(this.id)], [this.id, LEFT])
      .catch(() => undefined);
    this.#release();
  }

  async #collect(id: string, told: readonly string[]): Promise<BroadcastResult> {
    const until = performance.now() + (this.#options.answerMs ?? 60_000);
    for (;;) {
      const [beats, answers] = (await this.#connection.run(COLLECT, [this.#keys.beats, this.#keys.acks(id)], told)) as [
        string[],
        string[],
      ];
      this.#heartbeats.observe(beats);
      if (answers.every((answer, i) => answer !== "" || !this.#heartbeats.mayServe(told[i]!)))
        return summary(told, answers);
      if (performance.now() > until)
        throw new PrefixdError("store_unavailable", "A replica does not answer; repeat the request.", {
          retryAfter: 5,
        });
      await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    }
  }

  /** One renewal at a time; a request during one causes another after it. */
  #renew(): Promise<void> {
    if (this.#closed) return Promise.resolve();
    this.#renewAgain = this.#renewing !== null;
    this.#renewing ??= this.#renewOnce().finally(() => {
      this.#renewing = null;
      clearTimeout(this.#renewTimer);
      if (this.#closed) return;
      this.#renewTimer = setTimeout(() => void this.#renew(), this.#renewAgain ? 0 : this.#leaseMs / 10);
    });
    return this.#renewing;
  }

  async #renewOnce(): Promise<void> {
    const sentAt = performance.now();
    let [beats, fields]: [string[], string[]] = [[], []];
    try {
      [beats, fields] = (await this.#connection.run(
        RENEW,
        [this.#keys.beats, this.#keys.inbox(this.id)],
        [this.id, ++this.#beats],
      )) as [string[], string[]];
    } catch (error) {
      this.#options.onError?.(error as Error);
      return;
    }
    if (this.#closed) return;
    if (!this.mayServe()) this.#lapse();
    this.#heartbeats.observe(beats);
    for (const { replica, beat } of this.#heartbeats.takeStill()) void this.#strikeOff(replica, beat);
    // Execute commands before extending the lease: the renewal that delivered them must not let removed data be served.
    for (let i = 0; i < fields.length; i += 2) this.#carryOut(fields[i]!, fields[i + 1]!);
    this.#validUntil = sentAt + this.#leaseMs;
    this.#lapsed = false;
    clearTimeout(this.#lapseTimer);
    this.#lapseTimer = setTimeout(() => this.#lapse(), Math.max(0, this.#validUntil - performance.now()) + 1);
  }

  /** If it fails, the next renewal sees the replica again. */
  async #strikeOff(replica: string, beat: string): Promise<void> {
    await this.#connection
      .run(STRIKE_OFF, [this.#keys.beats, this.#keys.inbox(replica)], [replica, beat])
      .catch(() => undefined);
  }

  #lapse(): void {
    if (this.#lapsed) return;
    this.#lapsed = true;
    this.#options.onLapse();
  }

  #carryOut(id: string, command: string): void {
    let work = this.#commands.get(id);
    if (work === undefined) {
      work = this.#options.handler(JSON.parse(command) as ReplicaCommand);
      this.#commands.set(id, work);
      // A failed command is retried with the next renewal.
      work.catch((error: unknown) => {
        this.#commands.delete(id);
        this.#options.onError?.(error as Error);
      });
    }
    work
      .then(async (ended) => {
        const answer = JSON.stringify({ ...ended, at: new Date().toISOString() });
        await this.#connection.run(
          ACKNOWLEDGE,
          [this.#keys.inbox(this.id), this.#keys.acks(id)],
          [this.id, id, answer, KEEP_MS],
        );
        this.#commands.delete(id);
      })
      // On failure the command stays in the inbox and comes again.
      .catch(() => undefined);
  }
}

function summary(told: readonly string[], answers: readonly string[]): BroadcastResult {
  let [running, queued] = [0, 0];
  const replicas = told.map((id, i) => {
    const answer = answers[i]!;
    // Versions that had no names had random ids alone.
    const name = id.includes("/") ? id.slice(0, id.lastIndexOf("/")) : id;
    if (answer === "") return { id, name, acknowledgedAt: null };
    const ended = JSON.parse(answer) as EndedOnReplica & { at: string };
    running += ended.running;
    queued += ended.queued;
    return { id, name, acknowledgedAt: ended.at };
  });
  return { running, queued, replicas };
}
