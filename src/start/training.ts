/** Builds training over HTTP; the only module that knows how its processes are started. */
import { fork } from "node:child_process";
import { fileURLToPath } from "node:url";
import type { Config } from "../config.ts";
import type { Engine } from "../engine/engine.ts";
import { PrefixdError } from "../errors.ts";
import type { Logger } from "../observability/logging.ts";
import type { Metrics } from "../observability/metrics.ts";
import type { PrefixRegistry } from "../prefixes/registry-types.ts";
import { checkpointsIn, sweepCheckpoints, type SweepParts } from "../training/jobs/checkpoints.ts";
import { JobRunner } from "../training/jobs/runner.ts";
import { TrainingService } from "../training/jobs/service.ts";
import type { Replica } from "../replicas/replica.ts";
import type { TrainingStore } from "../training/jobs/store.ts";
import type { UserStore } from "../users/store.ts";
import { isBuiltInUser } from "../users/user-id.ts";
import { withoutSecrets } from "../without-secrets.ts";
import type { Resources } from "./resources.ts";

export interface TrainingParts {
  readonly config: Config;
  readonly store: TrainingStore;
  /** Its removals reach every replica. */
  readonly registry: PrefixRegistry;
  readonly users: Pick<UserStore, "getUser">;
  readonly engine: Engine;
  readonly mayServe: () => boolean;
  /** Reaches every replica. */
  readonly broadcast: Replica["broadcast"];
  /** Fingerprint of the base model. */
  readonly base: string;
  readonly metrics: Metrics;
  readonly logger: Logger;
}

/** A token that is learned costs what three read ones do: forwards, and backwards twice as much. */
const TRAINING_PRICE = 3;

// Resolved beside this file: .ts when run from src, .js from dist.
const ENTRY = fileURLToPath(
  new URL(`./training-child${import.meta.url.endsWith(".ts") ? ".ts" : ".js"}`, import.meta.url),
);

/**
 * null: this server does not train. Running jobs are stopped with `resources`.
 * @throws PrefixdError store_unavailable
 */
export async function openTraining(parts: TrainingParts, resources: Resources): Promise<TrainingService | null> {
  const { config, store, registry, users, engine, mayServe, broadcast, base, metrics, logger } = parts;
  if (config.training === "off") return null;
  await store.ping();
  const quota = { jobs: config.trainJobs, bytes: config.trainFileBytes, tokensPerDay: config.trainTokens };
  const checkpoints: SweepParts = { store, ...checkpointsIn(registry) };
  const runner = new JobRunner({
    ...checkpoints,
    quota,
    startChild: () =>
      fork(ENTRY, [String(config.trainNice)], { stdio: ["ignore", "ignore", "pipe", "ipc"], env: withoutSecrets() }),
    async register(claim, name, upload, signal) {
      const { user } = claim;
      const record = isBuiltInUser(user) ? undefined : await users.getUser(user);
      if (record === null) throw new PrefixdError("removed", "The user was removed.");
      await registry.register({ user, name }, upload, { quota: record?.limits, signal, by: claim.id, claim });
    },
    isBusy: () => {
      const { running, queued, folds } = engine.stats();
      return running + queued + folds > 0;
    },
    charge: (user, tokens) => engine.charge(user, TRAINING_PRICE * tokens),
    isSuspended: async (user) => (await users.getUser(user))?.suspended === true,
    mayRun: mayServe,
    serviceOf: (user) => engine.serviceOf(user),
    model: config.model,
    cacheDir: config.cacheDir,
    threads: config.trainThreads,
    share: config.trainShare,
    onTokens: (tokens) => metrics.trainedOn(tokens),
    onEnd: (status) => metrics.trainingEnded(status),
    log: (level, fields, message) => logger[level](fields, message),
  });
  resources.defer(() => runner.close());
  return new TrainingService({
    store,
    runner,
    quota,
    base,
    endEverywhere: async (user, id) => void (await broadcast({ kind: "job", user, id })),
    sweep: (job) => sweepCheckpoints(checkpoints, job),
    onCancel: () => metrics.trainingEnded("cancelled"),
  });
}
