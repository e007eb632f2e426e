/** How replicas learn of removals and acknowledge them. */
import type { PrefixdError } from "../errors.ts";

/**
 * A small JSON message. `user`: remove everything of a user. `prefix`: remove one prefix. `readmit`: a user with this
 * id is created again. `key`: end what one key of a user asked for. `suspend`: end what a user asked for, and refuse
 * more until `resume`. `job`: end a training job that was cancelled.
 */
export type ReplicaCommand =
  | { readonly kind: "user"; readonly user: string }
  | { readonly kind: "prefix"; readonly user: string; readonly name: string }
  | { readonly kind: "key"; readonly user: string; readonly keyId: string }
  | { readonly kind: "readmit"; readonly user: string }
  | { readonly kind: "suspend"; readonly user: string }
  | { readonly kind: "resume"; readonly user: string }
  | { readonly kind: "job"; readonly user: string; readonly id: string };

/** Requests that a command ended on one replica. */
export interface EndedOnReplica {
  readonly running: number;
  readonly queued: number;
}

export interface BroadcastResult extends EndedOnReplica {
  /** Every replica alive when the broadcast began; null: it did not answer and its lease has expired. */
  readonly replicas: readonly {
    readonly id: string;
    readonly name: string;
    readonly acknowledgedAt: string | null;
  }[];
}

/** Executes a command on this replica. Resolves when nothing here can serve what the command removed. */
export type ReplicaHandler = (command: ReplicaCommand) => Promise<EndedOnReplica>;

export interface ReplicaBus {
  /** Identifies this replica in receipts; random where replicas share a store. */
  readonly id: string;
  /** Whether this replica may serve now. Cheap: asked before every token. */
  mayServe(): boolean;
  /** Until when, by `performance.now()`; it may be renewed before. */
  readonly validUntil: number;
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
    endRequestsOfKey(user: string, keyId: string): Promise<EndedOnReplica>;
    suspendUser(user: string): Promise<EndedOnReplica>;
    resumeUser(user: string): void;
    readmitUser(user: string): void;
    endAll(error: PrefixdError): void;
  };
  readonly folding: {
    endOfUser(user: string): void;
    suspendUser(user: string): void;
    resumeUser(user: string): void;
    readmitUser(user: string): void;
    endAll(error: PrefixdError): void;
  };
  /** Absent: nothing is trained here. */
  readonly training?: {
    endOfUser(user: string): Promise<void>;
    endJob(user: string, id: string): Promise<void>;
    /** Lets the user's running job keep its state and wait. */
    suspendUser(user: string): void;
    readmitUser(user: string): void;
    lapse(): void;
  };
  readonly prefixCache: {
    evict(key: { user: string; name: string }): void;
    invalidateUser(user: string): void;
    clear(): void;
  };
  readonly engine: { wipeFreed(): Promise<void> };
  /** Absent: nobody is answered from here. */
  readonly answers?: {
    /** Resolves when everything written to clients has left the server, or waits for one that does not read. */
    settled(): Promise<void>;
    /** Resolves when nothing of the user can leave the server any more. */
    endOfUser(user: string): Promise<void>;
  };
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
  answers,
  forget,
  settle,
}: ReplicaParts): ReplicaHandler {
  /** Ends requests, between dropping what is cached of the user and what a look-up in progress may have cached again. */
  const end = async (user: string, work: () => Promise<EndedOnReplica>): Promise<EndedOnReplica> => {
    forget?.(user);
    const ended = await work();
    await engine.wipeFreed();
    await answers?.settled();
    forget?.(user);
    return ended;
  };
  const remove = async (command: Extract<ReplicaCommand, { kind: "user" | "prefix" }>): Promise<EndedOnReplica> => {
    const { user } = command;
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
    await (command.kind === "user" ? answers?.endOfUser(user) : answers?.settled());
    if (command.kind === "user") await settle?.(user);
    // Again, because a look-up in progress may have refilled the caches.
    evict();
    if (command.kind === "user") forget?.(user);
    return ended;
  };
  return async (command) => {
    const { user } = command;
    switch (command.kind) {
      case "readmit":
        generation.readmitUser(user);
        folding.readmitUser(user);
        training?.readmitUser(user);
        forget?.(user);
        return NOTHING_ENDED;
      case "resume":
        generation.resumeUser(user);
        folding.resumeUser(user);
        forget?.(user);
        return NOTHING_ENDED;
      case "suspend":
        folding.suspendUser(user);
        training?.suspendUser(user);
        return end(user, () => generation.suspendUser(user));
      case "key":
        return end(user, () => generation.endRequestsOfKey(user, command.keyId));
      case "job":
        await training?.endJob(user, command.id);
        return NOTHING_ENDED;
      case "user":
      case "prefix":
        return remove(command);
    }
  };
}

const NOTHING_ENDED: EndedOnReplica = { running: 0, queued: 0 };

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

/** The bus of a single process, which may always serve. `name` is this replica's. */
export function createLocalBus(handler: ReplicaHandler, name = "local"): ReplicaBus {
  const id = "local";
  return {
    id,
    mayServe: () => true,
    validUntil: Infinity,
    async broadcast(command) {
      const { running, queued } = await handler(command);
      return { running, queued, replicas: [{ id, name, acknowledgedAt: new Date().toISOString() }] };
    },
    close: () => Promise.resolve(),
  };
}
