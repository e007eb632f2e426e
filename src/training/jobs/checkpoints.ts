import type { TrainingStore } from "./store.ts";
import type { TrainingJob } from "./types.ts";

/** What the names of a job's checkpoints begin with; the step follows. */
export const checkpointStart = ({ name }: Pick<TrainingJob, "name">): string => `${name}.step-`;

export interface SweepParts {
  readonly store: TrainingStore;
  /** Removes a prefix that need not exist. */
  readonly unregister: (key: { readonly user: string; readonly name: string }) => Promise<void>;
  /** Names of the user's prefixes that begin with `start` and that this job has registered. */
  readonly registeredBy: (job: Pick<TrainingJob, "user" | "id">, start: string) => Promise<readonly string[]>;
}

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
  for (const name of there) if (!recorded.some((one) => one.name === name)) await unregister({ user, name });
}
