import { Cluster, Redis } from "ioredis";
import { PrefixdError } from "../errors.ts";
import type { RedisTls } from "./tls.ts";
import { parseRedisUrl } from "./url.ts";
import type { RedisScript } from "./prefix-scripts.ts";

export interface RedisConnectionOptions {
  /** In parseRedisUrl's format. */
  readonly url: string;
  /** Certificates for `rediss:`; absent: the system's authorities, and none of our own. */
  readonly tls?: RedisTls;
  /** Milliseconds a command may take before the store counts as away. Default 2000. */
  readonly commandTimeoutMs?: number;
  /**
   * Redis replicas that must confirm a removal or revocation before it is answered; 0, the default: those connected at
   * the time.
   */
  readonly waitReplicas?: number;
  /** Called for lost connections, for the log; at most once per lost connection and attempt. */
  readonly onError?: (error: Error) => void;
}

type Client = Redis | Cluster;

/**
 * Milliseconds for Redis' replicas to confirm a write; less than a command's limit, since others wait behind it on the
 * connection.
 */
const WAIT_MS = 1000;

/** Milliseconds until a client that has given up connects again. */
const AGAIN_MS = 100;

/** Wrong or missing password, no permission, protected mode, no such database: an operator has to fix it. */
const REFUSAL = /^(WRONGPASS|NOAUTH|NOPERM|DENIED)\b|invalid password|DB index is out of range/;

/** Commands over one connection; Redis answers them in order. */
export class RedisCommands {
  readonly client: Client;
  readonly #waitReplicas: number;

  constructor(client: Client, waitReplicas: number) {
    this.client = client;
    this.#waitReplicas = waitReplicas;
  }

  async run(
    script: RedisScript,
    keys: readonly string[],
    args: readonly (string | number | Buffer)[],
  ): Promise<unknown> {
    try {
      return await this.client.evalsha(script.sha, keys.length, ...keys, ...args);
    } catch (error) {
      if (!(error instanceof Error) || !error.message.startsWith("NOSCRIPT")) throw error;
      return await this.client.eval(script.lua, keys.length, ...keys, ...args);
    }
  }

  /**
   * Resolves when Redis' replicas have this connection's writes, so that a failover does not undo them. Throws
   * `store_unavailable` if they do not confirm in time; the write is made, and repeating it waits again.
   */
  async replicated(): Promise<void> {
    const nodes = this.client instanceof Cluster ? this.client.nodes("master") : [this.client];
    await Promise.all(
      nodes.map(async (node) => {
        const wanted = this.#waitReplicas > 0 ? this.#waitReplicas : await connectedReplicas(node);
        if (wanted === 0 || (await node.wait(wanted, WAIT_MS)) >= wanted) return;
        throw new PrefixdError(
          "store_unavailable",
          "Redis' replicas have not confirmed the change, so a failover could undo it; repeat the request.",
          { retryAfter: 2 },
        );
      }),
    );
  }
}

/**
 * A process's connections to Redis, shared by all its parts: one for commands, one for slow commands (`bulk`), one for
 * messages. While Redis is unreachable, commands fail fast and the connections keep reconnecting.
 *
 * Why `bulk`: a command waits for the earlier ones on its connection. While 4 MiB prefixes were uploaded and
 * downloaded, looking up a key (two commands) took 95 ms on one connection and 12 ms with `bulk` at 60 MB/s, 670 ms and
 * 11 ms at 6 MB/s. A WAIT blocks the commands behind it for as long as Redis' replicas take: a second when one is lost.
 */
export class RedisConnection extends RedisCommands {
  /** For chunks of prefixes, and for changes that wait for Redis' replicas. */
  readonly bulk: RedisCommands;
  readonly #subscriber: Client;
  readonly #onError: (error: Error) => void;
  #closed = false;

  constructor(options: RedisConnectionOptions) {
    const { waitReplicas = 0, onError = () => {} } = options;
    const connect = (what: string): Client => connectAs(`prefixd-${what}`, options).on("error", onError);
    super(connect("commands"), waitReplicas);
    this.bulk = new RedisCommands(connect("bulk"), waitReplicas);
    this.#subscriber = connect("messages");
    this.#onError = onError;
    // ioredis gives up for good if the Sentinels tell of the new primary while it asks one of them for the primary.
    for (const client of this.#clients())
      client.on("end", () => {
        if (!this.#closed) setTimeout(() => void (this.#closed || client.connect().catch(() => {})), AGAIN_MS).unref();
      });
  }

  /** Calls `listener` with every message of the channel; resubscribes on each new connection. */
  subscribe(channel: string, listener: (message: string) => void): void {
    this.#subscriber.on("message", (at: string, message: string) => {
      if (at === channel) listener(message);
    });
    const start = (): void => void this.#subscriber.subscribe(channel).catch(this.#onError);
    this.#subscriber.on("ready", start);
    if (this.#subscriber.status === "ready") start();
  }

  /**
   * Waits up to `timeoutMs` until commands can be sent; not being connected by then is no error. If Redis refuses this
   * URL, closes the connections and throws `store_unavailable`.
   */
  async ready(timeoutMs: number): Promise<void> {
    let refusal: Error | undefined;
    const wait = async (client: Client): Promise<void> => {
      if (client.status === "ready") return;
      await new Promise<void>((resolve) => {
        const timer = setTimeout(done, timeoutMs);
        const onError = (error: Error): void => {
          if (!REFUSAL.test(error.message)) return;
          refusal = error;
          done();
        };
        function done(): void {
          clearTimeout(timer);
          client.off("ready", done);
          client.off("error", onError);
          resolve();
        }
        client.once("ready", done);
        client.on("error", onError);
      });
    };
    await Promise.all(this.#clients().map(wait));
    // A user that may connect but not run scripts passes the connection's own checks.
    if (refusal === undefined && this.client.status === "ready") {
      await this.client.eval("return 1", 0).catch((error: Error) => {
        if (REFUSAL.test(error.message)) refusal = error;
      });
    }
    if (refusal === undefined) return;
    this.close();
    throw new PrefixdError("store_unavailable", `Redis refuses what --store asks for: ${refusal.message}`, {
      cause: refusal,
    });
  }

  /** Calls `listener` on every new connection for commands. */
  onReady(listener: () => void): void {
    this.client.on("ready", listener);
  }

  close(): void {
    this.#closed = true;
    for (const client of this.#clients()) client.disconnect();
  }

  #clients(): readonly Client[] {
    return [this.client, this.bulk.client, this.#subscriber];
  }
}

/** Shared connections, or options for connections of the part's own, which are closed with it. */
export type RedisAccess = { readonly redis: RedisConnection } | RedisConnectionOptions;

/** The connections a part uses; `release` closes them if they are its own. */
export interface RedisUse {
  readonly redis: RedisConnection;
  readonly release: () => void;
}

/** Returns the shared connections, or opens new ones. Throws as `openRedis`. */
export async function accessRedis(access: RedisAccess): Promise<RedisUse> {
  if ("redis" in access) return { redis: access.redis, release: () => undefined };
  const redis = await openRedis(access);
  return { redis, release: () => redis.close() };
}

/**
 * Connects to Redis. Resolves after `commandTimeoutMs` at the latest, connected or not. Throws `store_unavailable` if
 * Redis refuses this URL. Warns of a Redis that evicts keys.
 */
export async function openRedis(options: RedisConnectionOptions): Promise<RedisConnection> {
  const redis = new RedisConnection(options);
  await redis.ready(options.commandTimeoutMs ?? 2000);
  const info = await redis.client.info("memory").catch(() => "");
  const policy = /maxmemory_policy:(\S+)/.exec(info)?.[1] ?? "noeviction";
  if (policy !== "noeviction") {
    options.onError?.(
      new Error(
        `Redis may evict keys (maxmemory-policy ${policy}): prefixes, users and what refuses late uploads can vanish; set noeviction`,
      ),
    );
  }
  return redis;
}

/** 0 if INFO is denied. */
async function connectedReplicas(node: Redis): Promise<number> {
  const info = await node.info("replication").catch(() => "");
  return [...info.matchAll(/^slave\d+:.*\bstate=online\b/gm)].length;
}

/** `connectionName` appears in Redis' CLIENT LIST. */
function connectAs(connectionName: string, options: RedisConnectionOptions): Client {
  const { at, others = [], sentinel, cluster, db, username, password } = parseRedisUrl(options.url);
  const commandTimeout = options.commandTimeoutMs ?? 2000;
  const retry = (times: number): number => Math.min(50 * times, 1000);
  const common = {
    connectionName,
    commandTimeout,
    // A connection that does not answer is dropped and replaced; until the new one works, all commands fail at once.
    socketTimeout: commandTimeout,
    connectTimeout: commandTimeout,
    // Commands in flight fail when the connection breaks, not at their time limit.
    maxRetriesPerRequest: 0,
    // Resent after a lost connection, a conditional PUT would fail because of its own first attempt.
    autoResendUnfulfilledCommands: false,
    // `subscribe` does it. ioredis does not look after its own attempt: one that fails would end the process.
    autoResubscribe: false,
    protocol: 2,
    ...(username === undefined ? {} : { username }),
    ...(password === undefined ? {} : { password }),
    ...("tls" in at && at.tls ? { tls: options.tls ?? {} } : {}),
  } as const;
  const place = "path" in at ? { path: at.path } : { host: at.host, port: at.port };
  if (cluster) {
    return new Cluster([place, ...others], {
      redisOptions: common,
      enableOfflineQueue: false,
      slotsRefreshTimeout: commandTimeout,
      clusterRetryStrategy: retry,
    });
  }
  if (sentinel !== undefined && "host" in at)
    return new Redis({
      ...common,
      sentinels: [at, ...others].map(({ host, port }) => ({ host, port })),
      name: sentinel,
      role: "master",
      // Do not wait for the old primary's connection to break: the Sentinels say when there is a new one.
      failoverDetector: true,
      sentinelCommandTimeout: commandTimeout,
      sentinelRetryStrategy: retry,
      ...(at.tls ? { enableTLSForSentinelMode: true, sentinelTLS: options.tls ?? {} } : {}),
      db,
      enableOfflineQueue: false,
      retryStrategy: retry,
    });
  return new Redis({ ...common, ...place, db, enableOfflineQueue: false, retryStrategy: retry });
}

export function isOutOfMemory(error: unknown): boolean {
  const message = messageOf(error);
  return message.startsWith("OOM") || message.includes("-OOM");
}

const messageOf = (error: unknown): string => (error instanceof Error ? error.message : String(error));

/** Converts a failed command's error to one for the client. */
export function toStoreError(error: unknown): PrefixdError {
  if (error instanceof PrefixdError) return error;
  const message = messageOf(error);
  if (isOutOfMemory(error)) return new PrefixdError("store_full", "Redis has no memory left.", { cause: error });
  const cause = message.startsWith("Stream isn't writeable") ? new Error("there is no connection to Redis") : error;
  return new PrefixdError("store_unavailable", "The prefix store cannot be reached right now.", {
    cause,
    retryAfter: 2,
  });
}

/** Runs code that talks to Redis; throws its errors converted by `toStoreError`. */
export async function guarded<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw toStoreError(error);
  }
}
