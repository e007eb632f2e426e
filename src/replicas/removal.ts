import { PrefixdError } from "../errors.ts";
import { noSuchUser } from "../users/user-id.ts";
import type { PrefixRegistry } from "../prefixes/registry-types.ts";
import type { PrefixStore } from "../prefixes/store.ts";
import type { RemovalReceipt, UserRemoval } from "./removal-types.ts";
import type { ReplicaBus } from "./replica-bus.ts";
import type { TrainingStore } from "../training/jobs/store.ts";
import type { UserStore } from "../users/store.ts";

export interface UserRemovalParts {
  readonly users: Pick<UserStore, "getUser" | "listKeys" | "deleteKey" | "deleteUser">;
  readonly prefixes: Pick<PrefixStore, "deleteUser" | "removalState" | "readmitUser" | "list">;
  readonly bus: Pick<ReplicaBus, "broadcast">;
  /** null: nothing is kept of training. */
  readonly training: Pick<TrainingStore, "deleteUser"> | null;
  /** Time of day, for the receipt. */
  readonly clock?: () => Date;
}

/**
 * The order matters:
 *   1. block: the store refuses the user's uploads and loses its keys and prefixes, so that no new request can start;
 *   2. tell the replicas and wait: they end running requests and trainings, empty caches and KV rows, and write usage;
 *   3. delete the user and anything added in between, then check that nothing is left.
 * A failure leaves the removal open; the next call continues it.
 */
export function createUserRemoval({
  users,
  prefixes,
  bus,
  training,
  clock = () => new Date(),
}: UserRemovalParts): UserRemoval {
  return {
    async removeUser(id, { keepUsage }): Promise<RemovalReceipt> {
      const known = (await users.getUser(id)) !== null;
      const unfinished =
        (await prefixes.removalState(id)) === "open" || (await prefixes.list(id, { limit: 1 })).length > 0;
      if (!known && !unfinished) throw noSuchUser();
      const first = await prefixes.deleteUser(id);
      const keys = await users.listKeys(id);
      for (const key of keys) await users.deleteKey(id, key.id);
      const { running, queued, replicas } = await bus.broadcast({ kind: "user", user: id });
      // Before the records, so that a repeated call finds the removal open until this is done.
      const trained = (await training?.deleteUser(id)) ?? { files: 0, jobs: 0, bytes: 0 };
      // Call it even without a user record: a crash may have left data that is deleted after the record.
      const late = await users.deleteUser(id, { keepUsage }).catch(goneAlready);
      const second = await prefixes.deleteUser(id, { last: true });
      if ((await prefixes.list(id, { limit: 1 })).length > 0 || (await users.getUser(id)) !== null) {
        throw new PrefixdError(
          "store_unavailable",
          "The user was created again during the removal; repeat the request.",
          { retryAfter: 1 },
        );
      }
      return {
        user: id,
        removed: {
          prefixes: first.prefixes + second.prefixes,
          keys: keys.length + late.keys,
          bytes: first.bytes + second.bytes,
          running,
          queued,
          training_files: trained.files,
          training_jobs: trained.jobs,
          training_bytes: trained.bytes,
        },
        replicas: replicas.map((replica) => ({
          id: replica.id,
          name: replica.name,
          acknowledged_at: replica.acknowledgedAt,
        })),
        completed_at: clock().toISOString(),
      };
    },

    async readmitUser(id) {
      const state = await prefixes.removalState(id);
      if (state === null) return;
      if (state === "open")
        throw new PrefixdError("user_exists", "The removal of the user with this id is not finished; repeat it.");
      await bus.broadcast({ kind: "readmit", user: id });
      // Last, so that a repeated call after a failure redoes everything.
      await prefixes.readmitUser(id);
    },
  };
}

/** A concurrent call has already removed the user. */
function goneAlready(error: unknown): { keys: number } {
  if (error instanceof PrefixdError && error.code === "user_not_found") return { keys: 0 };
  throw error;
}

/**
 * A registry whose `remove` resolves when no replica serves the prefix any more; running requests on it end everywhere.
 * Replacing a prefix instead lets running requests finish on the version they started with.
 */
export function removeEverywhere(registry: PrefixRegistry, bus: Pick<ReplicaBus, "broadcast">): PrefixRegistry {
  return {
    register: (...args) => registry.register(...args),
    patch: (...args) => registry.patch(...args),
    info: (...args) => registry.info(...args),
    find: (...args) => registry.find(...args),
    readable: (...args) => registry.readable(...args),
    versions: (...args) => registry.versions(...args),
    restore: (...args) => registry.restore(...args),
    list: (...args) => registry.list(...args),
    listShared: (...args) => registry.listShared(...args),
    held: (...args) => registry.held(...args),
    isResident: (prefix) => registry.isResident(prefix),
    openFile: (...args) => registry.openFile(...args),
    resolve: (...args) => registry.resolve(...args),
    async remove(key, precondition) {
      const tell = async (): Promise<void> =>
        void (await bus.broadcast({ kind: "prefix", user: key.user, name: key.name }));
      try {
        await registry.remove(key, precondition);
      } catch (error) {
        // An earlier call may have removed it without reaching the replicas: tell them now.
        if (error instanceof PrefixdError && error.code === "prefix_not_found") await tell();
        throw error;
      }
      await tell();
    },
  };
}
