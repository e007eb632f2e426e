import type { RunParts } from "./run-job.ts";
import type { TrainingJob } from "./types.ts";

/** What the names of a job's checkpoints begin with; the step follows. */
export const checkpointStart = ({ name }: Pick<TrainingJob, "name">): string => `${name}.step-`;

export type SweepParts = Pick<RunParts, "store" | "registeredBy" | "unregister">;

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
