/** How replicas are told of removals, and answer. */
import type { PrefixdError } from "../errors.ts";

/** Small, JSON. `user`: all of a user's; `prefix`: one prefix; `readmit`: a user of this id has been created anew. */
export type ReplicaCommand =
  | { readonly kind: "user"; readonly user: string }
  | { readonly kind: "prefix"; readonly user: string; readonly name: string }
  | { readonly kind: "readmit"; readonly user: string };

/** What a command ended on one replica. */
export interface EndedOnReplica {
  readonly running: number;
  readonly queued: number;
}

export interface BroadcastResult extends EndedOnReplica {
  /** Every replica that was alive when the broadcast began; null: it did not answer, and its lease has run out. */
  readonly replicas: readonly { readonly id: string; readonly acknowledgedAt: string | null }[];
}

/** Carries a command out on this replica. Resolves when nothing here can serve what the command removed. */
export type ReplicaHandler = (command: ReplicaCommand) => Promise<EndedOnReplica>;

export interface ReplicaBus {
  /** Random; names this replica in receipts. */
  readonly id: string;
  /** Whether this replica may serve now. Cheap: asked before every token. */
  mayServe(): boolean;
  /**
   * Resolves when every replica that was alive at the beginning has carried the command out, or can no longer serve.
   * Throws `store_unavailable`; can be repeated.
   */
  broadcast(command: ReplicaCommand): Promise<BroadcastResult>;
  close(): Promise<void>;
}

/** The parts of a replica that may know something of a user. */
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
  readonly prefixCache: {
    evict(key: { user: string; name: string }): void;
    invalidateUser(user: string): void;
    clear(): void;
  };
  readonly engine: { wipeFreed(): Promise<void> };
  /** Whatever else caches something of users, such as keys: forget this user, or, without one, all. */
  readonly forget?: (user: string | null) => void;
  /** Writes what is still in memory of what a user has used, before the user's record goes. */
  readonly settle?: (user: string) => Promise<void>;
}

export function createReplicaHandler({
  generation,
  folding,
  prefixCache,
  engine,
  forget,
  settle,
}: ReplicaParts): ReplicaHandler {
  return async (command) => {
    const { user } = command;
    if (command.kind === "readmit") {
      generation.readmitUser(user);
      folding.readmitUser(user);
      forget?.(user);
      return { running: 0, queued: 0 };
    }
    const evict = command.kind === "user" ? () => prefixCache.invalidateUser(user) : () => prefixCache.evict(command);
    if (command.kind === "user") forget?.(user);
    evict();
    if (command.kind === "user") folding.endOfUser(user);
    const ended = await (command.kind === "user"
      ? generation.endRequestsOfUser(user)
      : generation.endRequestsOf(command));
    await engine.wipeFreed();
    if (command.kind === "user") await settle?.(user);
    // Again: a look-up that was under way has ended by now.
    evict();
    if (command.kind === "user") forget?.(user);
    return ended;
  };
}

/** What a replica does whose lease has run out: it cannot know what has been removed since. */
export function dropEverything(
  { generation, folding, prefixCache, engine, forget }: ReplicaParts,
  error: PrefixdError,
): void {
  prefixCache.clear();
  forget?.(null);
  generation.endAll(error);
  folding.endAll(error);
  void engine.wipeFreed().catch(() => undefined);
}

/** One process, alone: it always may serve. */
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
