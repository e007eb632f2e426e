import type { PrefixStore } from "../prefixes/store.ts";
import type { UserStore } from "../users/store.ts";
import type { TokenBuckets } from "../users/token-rate.ts";
import type { ReplicaBus, ReplicaHandler } from "./replica-bus.ts";

export interface JoinOptions {
  readonly handler: ReplicaHandler;
  /** The lease has run out: called once, before the next one begins. Must forget all that is cached, at once. */
  readonly onLapse: () => void;
}

/** Where everything lives that outlasts a process, and what replicas that share it need besides. */
export interface Backend {
  readonly prefixes: PrefixStore;
  readonly users: UserStore;
  readonly tokenBuckets: TokenBuckets;
  /** As PrefixCacheOptions.verifyMs: 0 where asking costs next to nothing. */
  readonly prefixVerifyMs: number;
  /** From now on this process is told of removals, and waited for. Resolves with a lease or, while the store is away, without one. */
  joinReplicas(options: JoinOptions): Promise<ReplicaBus>;
  close(): Promise<void>;
}
