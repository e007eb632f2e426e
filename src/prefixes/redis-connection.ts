import { Cluster, Redis } from "ioredis";
import { PrefixdError } from "../errors.ts";
import type { RedisScript } from "./redis-scripts.ts";

export interface RedisConnectionOptions {
  /** `redis://` or `rediss://[user:password@]host[:port][/db]`; `?cluster=true` for a Cluster, of which this is any node. */
  readonly url: string;
  /** Milliseconds that a command may take before the store counts as away. Default 2000. */
  readonly commandTimeoutMs?: number;
  /** Hears of lost connections, for the log; at most one per lost connection and attempt. */
  readonly onError?: (error: Error) => void;
}

type Client = Redis | Cluster;

/** One connection for commands and one for messages. Away, it fails fast and keeps trying to come back. */
export class RedisConnection {
  readonly client: Client;
  readonly #subscriber: Client;
  readonly #onError: (error: Error) => void;

  constructor(options: RedisConnectionOptions) {
    this.#onError = options.onError ?? (() => {});
    this.client = connect(options);
    this.#subscriber = connect(options);
    for (const client of [this.client, this.#subscriber]) client.on("error", this.#onError);
  }

  /** Calls `listener` with every message of the channel, from the first connection on and again after each lost one. */
  subscribe(channel: string, listener: (message: string) => void): void {
    this.#subscriber.on("message", (_channel: string, message: string) => listener(message));
    const start = (): void => void this.#subscriber.subscribe(channel).catch(this.#onError);
    this.#subscriber.on("ready", start);
    if (this.#subscriber.status === "ready") start();
  }

  /** Waits until commands can be sent, at most so long; not being connected by then is no error. */
  async ready(timeoutMs: number): Promise<void> {
    const both = [this.client, this.#subscriber].map(async (client) => {
      if (client.status === "ready") return;
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, timeoutMs);
        client.once("ready", () => {
          clearTimeout(timer);
          resolve();
        });
      });
    });
    await Promise.all(both);
  }

  async run(script: RedisScript, keys: readonly string[], args: readonly (string | number | Buffer)[]): Promise<unknown> {
    try {
      return await this.client.evalsha(script.sha, keys.length, ...keys, ...args);
    } catch (error) {
      if (!(error instanceof Error) || !error.message.startsWith("NOSCRIPT")) throw error;
      return await this.client.eval(script.lua, keys.length, ...keys, ...args);
    }
  }

  close(): void {
    this.client.disconnect();
    this.#subscriber.disconnect();
  }
}

function connect(options: RedisConnectionOptions): Client {
  const url = new URL(options.url);
  const cluster = url.searchParams.get("cluster") === "true";
  const commandTimeout = options.commandTimeoutMs ?? 2000;
  const retry = (times: number): number => Math.min(50 * times, 1000);
  const common = {
    commandTimeout,
    // A connection that swallows commands is given up, and another one made.
    socketTimeout: 2 * commandTimeout,
    connectTimeout: commandTimeout,
    maxRetriesPerRequest: 1,
    // Sent again after a lost connection, a conditional PUT would find itself done already.
    autoResendUnfulfilledCommands: false,
    protocol: 2,
    ...(url.username === "" ? {} : { username: decodeURIComponent(url.username) }),
    ...(url.password === "" ? {} : { password: decodeURIComponent(url.password) }),
    ...(url.protocol === "rediss:" ? { tls: {} } : {}),
  } as const;
  const host = url.hostname.replace(/^\[(.*)\]$/, "$1");
  const port = url.port === "" ? 6379 : Number(url.port);
  if (cluster) {
    return new Cluster([{ host, port }], { redisOptions: common, enableOfflineQueue: false, slotsRefreshTimeout: commandTimeout, clusterRetryStrategy: retry });
  }
  return new Redis({ ...common, host, port, db: Number(url.pathname.slice(1) || 0), enableOfflineQueue: false, retryStrategy: retry });
}

/** What a failed command means for the client. */
export function toStoreError(error: unknown): PrefixdError {
  if (error instanceof PrefixdError) return error;
  const message = error instanceof Error ? error.message : String(error);
  if (message.startsWith("OOM") || message.includes("-OOM")) {
    return new PrefixdError("store_full", "Redis has no memory left for the prefix.", { cause: error });
  }
  return new PrefixdError("store_unavailable", "The prefix store cannot be reached right now.", { cause: error, retryAfter: 2 });
}
