import { lostTouch, PrefixdError } from "../errors.ts";
import type { ModelShape } from "../kv.ts";
import type { Logger } from "../observability/logging.ts";
import { methodsOf, observeErrors } from "../observability/observe-errors.ts";
import { createPrefixCache, type PrefixCache } from "../prefixes/cache.ts";
import type { PrefixRegistry } from "../prefixes/registry-types.ts";
import type { PrefixStore } from "../prefixes/store.ts";
import type { TrainingStore } from "../training/jobs/store.ts";
import type { AdminKeys } from "../users/admin-keys.ts";
import { createAuthenticator, createKeylessAuthenticator, type Authenticator } from "../users/authenticator.ts";
import { UserDirectory, withDirectory } from "../users/directory.ts";
import { userShares } from "../users/shares.ts";
import type { UserStore } from "../users/store.ts";
import { UserTokenRate, type TokenRate } from "../users/token-rate.ts";
import { UsageRecorder } from "../users/usage.ts";
import type { Backend } from "./backend.ts";
import type { UserRemoval } from "./removal-types.ts";
import { createUserRemoval, removeEverywhere } from "./removal.ts";
import { createRevocation, type Revocation } from "./revocation.ts";
import {
  createReplicaHandler,
  dropEverything,
  type BroadcastResult,
  type ReplicaBus,
  type ReplicaCommand,
  type ReplicaParts,
} from "./replica-bus.ts";

export interface ReplicaOptions {
  readonly backend: Backend;
  readonly shape: ModelShape;
  /** Maximum bytes of prefixes in the cache. */
  readonly prefixCacheBytes: number;
  /** This replica's name. */
  readonly name: string;
  /** null: requests need no key. */
  readonly adminKeys: AdminKeys | null;
  readonly logger: Logger;
  /** Called for every failed store operation, except for errors that answer the client (4xx). */
  readonly onStoreError: (operation: string) => void;
}

/**
 * This process among those that share a backend. It caches prefixes, keys and users, knows how long it may serve from
 * those caches, and drops them when one of these is removed or the lease expires. It may not serve before `join`.
 */
export class Replica {
  readonly users: UserStore;
  readonly prefixes: PrefixStore;
  readonly training: TrainingStore;
  readonly prefixCache: PrefixCache;
  readonly auth: Authenticator;
  /** Users as the engine's tenants. */
  readonly shares: ReturnType<typeof userShares>;
  readonly tokenRate: TokenRate;
  readonly usage: UsageRecorder;
  readonly removal: UserRemoval;
  /** What `onStoreError` may be told of. */
  readonly storeOperations: readonly string[];
  readonly revocation: Revocation;
  readonly #name: string;
  readonly #backend: Backend;
  readonly #directory: UserDirectory;
  readonly #logger: Logger;
  #bus: ReplicaBus | null = null;

  constructor({ backend, name, shape, prefixCacheBytes, adminKeys, logger, onStoreError }: ReplicaOptions) {
    const onError = (operation: string, error: unknown): void => {
      // A failed precondition is an answer to the client, not a fault of the store.
      if (!(error instanceof PrefixdError) || error.status >= 500) onStoreError(operation);
    };
    this.#name = name;
    this.#backend = backend;
    this.#logger = logger;
    const users = (this.users = observeErrors(backend.users, onError));
    const prefixes = (this.prefixes = observeErrors(backend.prefixes, onError));
    const training = (this.training = observedTraining(backend.training, onError));
    this.storeOperations = [...new Set([...methodsOf(backend.users), ...methodsOf(backend.prefixes)])];
    const directory = (this.#directory = new UserDirectory(users));
    this.auth = withDirectory(
      adminKeys === null ? createKeylessAuthenticator() : createAuthenticator({ store: users, adminKeys }),
      directory,
    );
    this.shares = userShares((user) => directory.find(user));
    this.prefixCache = createPrefixCache({
      store: prefixes,
      shape,
      maxBytes: prefixCacheBytes,
      verifyMs: backend.prefixVerifyMs,
    });
    this.tokenRate = new UserTokenRate(
      backend.tokenBuckets,
      (user) => directory.find(user)?.limits.tokens_per_minute ?? null,
    );
    this.usage = new UsageRecorder({ sink: users });
    this.removal = createUserRemoval({ users, prefixes, bus: this, training });
    this.revocation = createRevocation({ users, bus: this });
  }

  /** Whether this replica may serve now. Cheap: asked before every token. */
  readonly mayServe = (): boolean => this.#bus?.mayServe() ?? false;

  /** Until when, by `performance.now()`, unless it is renewed. */
  readonly servesUntil = (): number => this.#bus?.validUntil ?? -Infinity;

  /** Identifies this replica in receipts; null: it has not joined. */
  get id(): string | null {
    return this.#bus?.id ?? null;
  }

  /** From now on removals reach these parts. Resolves without a lease if the store is unreachable. */
  async join(parts: Pick<ReplicaParts, "generation" | "folding" | "training" | "engine" | "answers">): Promise<void> {
    const all: ReplicaParts = {
      ...parts,
      prefixCache: this.prefixCache,
      forget: (user) => this.#forget(user),
      settle: (user) => this.usage.settle(user),
    };
    this.#bus = await this.#backend.joinReplicas({
      name: this.#name,
      handler: createReplicaHandler(all),
      onLapse: () => {
        this.#logger.warn("the lease in Redis has run out: nothing is served until it is renewed");
        dropEverything(all, lostTouch());
      },
    });
  }

  /** Resolves when no replica can serve what the command removes. Throws `store_unavailable`; can be repeated. */
  async broadcast(command: ReplicaCommand): Promise<BroadcastResult> {
    if (this.#bus === null) throw lostTouch();
    return this.#bus.broadcast(command);
  }

  /** The registry as clients see it: removing a prefix removes it from all replicas. */
  everywhere(registry: PrefixRegistry): PrefixRegistry {
    return removeEverywhere(registry, this);
  }

  /** For probes. Throws `store_unavailable` when this replica cannot serve now. */
  async check(): Promise<void> {
    await this.prefixes.ping();
    this.mustServe();
  }

  /** Throws `store_unavailable` without a lease. */
  mustServe(): void {
    if (!this.mayServe()) throw lostTouch();
  }

  /** Leaves the bus and writes the remaining usage. Does not close the backend. */
  async close(): Promise<void> {
    await this.#bus?.close();
    this.auth.close();
    await this.usage.close();
    this.prefixCache.close();
    this.#directory.close();
  }

  /** null forgets all users. */
  #forget(user: string | null): void {
    this.auth.forget(user);
    this.#directory.forget(user);
  }
}

/** Also while a file arrives, which is written by an object of its own. */
function observedTraining(store: TrainingStore, onError: (operation: string, error: unknown) => void): TrainingStore {
  const observed = observeErrors(store, onError);
  const receive: TrainingStore["receive"] = async (user) => observeErrors(await observed.receive(user), onError);
  return new Proxy(observed, {
    get: (target, property) => (property === "receive" ? receive : (Reflect.get(target, property) as unknown)),
  });
}
