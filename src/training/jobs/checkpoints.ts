import { PrefixdError } from "../../errors.ts";
import type { PrefixRegistry } from "../../prefixes/registry-types.ts";
import type { TrainingStore } from "./store.ts";
import type { TrainingJob } from "./types.ts";

/** Prefixes looked at at a time. */
const PAGE = 100;

type OfUser = Pick<TrainingJob, "user" | "id">;

/** What the names of a job's checkpoints begin with; the step follows. */
export const checkpointStart = ({ name }: Pick<TrainingJob, "name">): string => `${name}.step-`;

export interface SweepParts {
  readonly store: TrainingStore;
  /** Removes a prefix of the user's, if there is one that this job has registered: what has taken its place stays. */
  readonly unregister: (job: OfUser, name: string) => Promise<void>;
  /** Names of the user's prefixes that begin with `start`, itself no name, and that this job has registered last. */
  readonly registeredBy: (job: OfUser, start: string) => Promise<readonly string[]>;
}

export function checkpointsIn(
  registry: Pick<PrefixRegistry, "find" | "list" | "remove">,
): Pick<SweepParts, "unregister" | "registeredBy"> {
  return {
    async unregister({ user, id }, name) {
      const there = await registry.find({ user, name });
      if (there?.updatedBy !== id) return;
      await registry.remove({ user, name }, { ifMatch: [there.digest] }).catch((error: unknown) => {
        if (!(error instanceof PrefixdError) || !CHANGED.has(error.code)) throw error;
      });
    },
    async registeredBy({ user, id }, start) {
      const found: string[] = [];
      for (let after = start; ; ) {
        const page = await registry.list(user, { after, limit: PAGE });
        const begun = page.filter(({ name }) => name.startsWith(start));
        found.push(...begun.filter(({ updatedBy }) => updatedBy === id).map(({ name }) => name));
        if (begun.length < PAGE) return found;
        after = begun.at(-1)!.name;
      }
    },
  };
}

/** Removed or replaced in between. */
const CHANGED: ReadonlySet<string> = new Set(["prefix_not_found", "precondition_failed"]);

/**
 * Removes checkpoints that the job has registered but not recorded, because its server was killed in between: nobody
 * would ever remove them. Only while nothing trains the job.
 */
export async function sweepCheckpoints(
  { store, registeredBy, unregister }: SweepParts,
  job: Pick<TrainingJob, "user" | "id" | "name">,
): Promise<void> {
  const { user, id } = job;
  const there = await registeredBy(job, checkpointStart(job));
  if (there.length === 0) return;
  const recorded = await store.listCheckpoints(user, id, { limit: 100, order: "desc" });
  for (const name of there) if (!recorded.some((one) => one.name === name)) await unregister(job, name);
}
