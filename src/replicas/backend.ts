import type { PrefixStore } from "../prefixes/store.ts";
import type { TrainingStore } from "../training/jobs/store.ts";
import type { UserStore } from "../users/store.ts";
import type { TokenBuckets } from "../users/token-rate.ts";
import type { ReplicaBus, ReplicaHandler } from "./replica-bus.ts";

export interface JoinOptions {
  /** This replica's name, for receipts. */
  readonly name: string;
  readonly handler: ReplicaHandler;
  /** Called once when the lease has expired, before the next one begins. Must drop everything cached, at once. */
  readonly onLapse: () => void;
}

/** All persistent state, plus what the replicas sharing it need. */
export interface Backend {
  readonly prefixes: PrefixStore;
  readonly users: UserStore;
  readonly tokenBuckets: TokenBuckets;
  readonly training: TrainingStore;
  /** Value for PrefixCacheOptions.verifyMs; 0 where asking the store costs almost nothing. */
  readonly prefixVerifyMs: number;
  /**
   * From now on this process receives removals, and broadcasts wait for its answer. Resolves without a lease if the
   * store is unreachable.
   */
  joinReplicas(options: JoinOptions): Promise<ReplicaBus>;
  close(): Promise<void>;
}
