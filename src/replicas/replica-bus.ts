/** How replicas learn of removals and acknowledge them. */
import type { PrefixdError } from "../errors.ts";

/**
 * A small JSON message. `user`: remove everything of a user. `prefix`: remove one prefix. `readmit`: a user with this
 * id is created again. `job`: end a training job that was cancelled.
 */
export type ReplicaCommand =
  | { readonly kind: "user"; readonly user: string }
  | { readonly kind: "prefix"; readonly user: string; readonly name: string }
  | { readonly kind: "readmit"; readonly user: string }
  | { readonly kind: "job"; readonly user: string; readonly id: string };

/** Requests that a command ended on one replica. */
export interface EndedOnReplica {
  readonly running: number;
  readonly queued: number;
}

export interface BroadcastResult extends EndedOnReplica {
  /** Every replica alive when the broadcast began; null: it did not answer and its lease has expired. */
  readonly replicas: readonly { readonly id: string; readonly acknowledgedAt: string | null }[];
}

/** Executes a command on this replica. Resolves when nothing here can serve what the command removed. */
export type ReplicaHandler = (command: ReplicaCommand) => Promise<EndedOnReplica>;

export interface ReplicaBus {
  /** Identifies this replica in receipts; random where replicas share a store. */
  readonly id: string;
  /** Whether this replica may serve now. Cheap: asked before every token. */
  mayServe(): boolean;
  /**
   * Resolves when every replica alive at the start has executed the command or can no longer serve.
   * Throws `store_unavailable`; can be repeated.
   */
  broadcast(command: ReplicaCommand): Promise<BroadcastResult>;
  close(): Promise<void>;
}

/** The parts of a replica that may hold data of a user. */
export interface ReplicaParts {
  readonly generation: {
    endRequestsOf(key: { user: string; name: string }): Promise<EndedOnReplica>;
    endRequestsOfUser(user: string): Promise<EndedOnReplica>;
    readmitUser(user: string): void;
    endAll(error: PrefixdError): void;
  };
  readonly folding: {
    endOfUser(user: string): void;
    readmitUser(user: string): void;
    endAll(error: PrefixdError): void;
  };
  /** Absent: nothing is trained here. */
  readonly training?: {
    endOfUser(user: string): Promise<void>;
    endJob(user: string, id: string): Promise<void>;
    readmitUser(user: string): void;
    lapse(): void;
  };
  readonly prefixCache: {
    evict(key: { user: string; name: string }): void;
    invalidateUser(user: string): void;
    clear(): void;
  };
  readonly engine: { wipeFreed(): Promise<void> };
  /** Clears other caches of user data, such as keys, for this user or, if null, for all. */
  readonly forget?: (user: string | null) => void;
  /** Writes the user's usage still in memory, before the user's record is deleted. */
  readonly settle?: (user: string) => Promise<void>;
}

export function createReplicaHandler({
  generation,
  folding,
  training,
  prefixCache,
  engine,
  forget,
  settle,
}: ReplicaParts): ReplicaHandler {
  return async (command) => {
    const { user } = command;
    if (command.kind === "job") {
      await training?.endJob(user, command.id);
      return { running: 0, queued: 0 };
    }
    if (command.kind === "readmit") {
      generation.readmitUser(user);
      folding.readmitUser(user);
      training?.readmitUser(user);
      forget?.(user);
      return { running: 0, queued: 0 };
    }
    const evict = command.kind === "user" ? () => prefixCache.invalidateUser(user) : () => prefixCache.evict(command);
    if (command.kind === "user") forget?.(user);
    evict();
    if (command.kind === "user") {
      folding.endOfUser(user);
      await training?.endOfUser(user);
    }
    const ended = await (command.kind === "user"
      ? generation.endRequestsOfUser(user)
      : generation.endRequestsOf(command));
    await engine.wipeFreed();
    if (command.kind === "user") await settle?.(user);
    // Again, because a look-up in progress may have refilled the caches.
    evict();
    if (command.kind === "user") forget?.(user);
    return ended;
  };
}

/** Run when the lease has expired: this replica cannot know what has been removed since. */
export function dropEverything(
  { generation, folding, training, prefixCache, engine, forget }: ReplicaParts,
  error: PrefixdError,
): void {
  training?.lapse();
  prefixCache.clear();
  forget?.(null);
  generation.endAll(error);
  folding.endAll(error);
  void engine.wipeFreed().catch(() => undefined);
}

/** The bus of a single process, which may always serve. */
export function createLocalBus(handler: ReplicaHandler): ReplicaBus {
  const id = "local";
  return {
    id,
    mayServe: () => true,
    async broadcast(command) {
      const { running, queued } = await handler(command);
      return { running, queued, replicas: [{ id, acknowledgedAt: new Date().toISOString() }] };
    },
    close: () => Promise.resolve(),
  };
}
