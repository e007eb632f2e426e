/** Composition root: config -> parts -> listen -> drain. Only this and the command line construct concrete parts. */
import { setTimeout as sleep } from "node:timers/promises";
import { exportArchive } from "./archive/export.ts";
import { paced } from "./archive/paced.ts";
import { originsOf, secretsOf, type Config } from "./config.ts";
import { Engine } from "./engine/engine.ts";
import type { PrefixdError } from "./errors.ts";
import { Constraints } from "./generation/constraints.ts";
import { FoldingService, unmeteredFolding } from "./generation/folding.ts";
import { GenerationService } from "./generation/service.ts";
import { AdminPort } from "./http/admin-port.ts";
import { STREAM_DEFAULTS } from "./http/app-parts.ts";
import { buildApp } from "./http/app.ts";
import { clientLimits } from "./http/connections/client-limits.ts";
import { OpenAnswers } from "./http/connections/open-answers.ts";
import { UPLOADS } from "./http/prefixes/transfer-gate.ts";
import { drain, listen } from "./http/server.ts";
import { embeddingDigests } from "./model/embedding-digests.ts";
import { createAuditLog } from "./observability/audit.ts";
import { createLogger, type Logger } from "./observability/logging.ts";
import { standardOutput } from "./observability/pretty-log.ts";
import { Metrics } from "./observability/metrics.ts";
import { SecretFilter } from "./observability/secrets.ts";
import { openTracing } from "./observability/tracing/open.ts";
import { maxAdapterBytes } from "./prefixes/peft.ts";
import { createPrefixRegistry } from "./prefixes/registry.ts";
import { Replica } from "./replicas/replica.ts";
import { DEFAULT_LIMITS } from "./structured/limits.ts";
import { watchAdminKeys } from "./start/admin-key-file.ts";
import { registerAdapters } from "./start/adapters.ts";
import { openBackend } from "./start/backend.ts";
import { openHttpWorkers } from "./start/http-workers.ts";
import { openModel } from "./start/model.ts";
import { Resources } from "./start/resources.ts";
import { openTraining } from "./start/training.ts";
import { AdminKeys } from "./users/admin-keys.ts";
import { VERSION } from "./version.ts";

export interface RunningServer {
  /** Such as `http://127.0.0.1:8080`. */
  readonly url: string;
  /** Resolves if the model's device is lost: all requests end, and only a new process can serve again. */
  readonly deviceLost: Promise<PrefixdError>;
  /**
   * Keeps serving for `delaySeconds` (default: `drainDelay`), then accepts nothing new, gives running requests up to
   * `drainTimeout` seconds to end, and frees everything. Further calls return the same promise.
   */
  stop(options?: { delaySeconds: number }): Promise<void>;
}

/**
 * Starts a server and resolves when it answers requests.
 * @throws FolderInUseError, ConfigError (OpenTelemetry's variables), ModelLoadError, DeviceError, PrecisionError, OrtError, PrefixdError (store, adapters), the
 * system's errors for the address; leaves nothing open in that case
 */
export function startServer(config: Config, logger?: Logger): Promise<RunningServer> {
  const secrets = new SecretFilter(secretsOf(config));
  const log = logger ?? createLogger(config.logLevel, standardOutput(config.logFormat), secrets, config.replicaName);
  return Resources.openAll((resources) => start(config, secrets, log, resources));
}

async function start(
  config: Config,
  secrets: SecretFilter,
  logger: Logger,
  resources: Resources,
): Promise<RunningServer> {
  const tracing = await openTracing(process.env, logger);
  if (tracing !== null) resources.defer(() => tracing.close());
  // First, so that a second server on the same folder fails before any slow work.
  const backend = await openBackend(config, logger);
  resources.defer(() => backend.close());
  const metrics = new Metrics();
  metrics.replica(config.replicaName, VERSION);
  resources.defer(() => metrics.close());
  const adminPort = await openAdminPort(config, metrics, logger, resources);
  const model = await openModel(config, logger, resources);
  const { shape, fingerprint } = model.checkpoint;
  const adminKeys = config.adminKeys.length === 0 ? null : new AdminKeys(config.adminKeys);
  const replica = new Replica({
    backend,
    shape,
    prefixCacheBytes: config.prefixCacheBytes,
    name: config.replicaName,
    adminKeys,
    logger,
    onStoreError: (operation) => metrics.storeError(operation),
  });
  resources.defer(() => replica.close());
  metrics.expectStoreOperations(replica.storeOperations);
  const { mayServe: mayEmit, tokenRate, usage } = replica;

  const engine = new Engine({
    runner: model.runner,
    maxQueue: config.maxQueue,
    queueTimeoutMs: config.queueTimeout === 0 ? Infinity : config.queueTimeout * 1000,
    prefillChunk: config.prefillChunk,
    prefillShare: config.prefillShare,
    observer: metrics,
    shares: replica.shares,
    mayEmit,
  });
  const folding = new FoldingService({ engine, tokenRate, usage });
  const registryOptions = {
    store: replica.prefixes,
    cache: replica.prefixCache,
    shape,
    baseFingerprint: fingerprint,
    keepVersions: config.prefixVersions,
    ...(config.requireBaseName ? { requiredBaseName: model.name } : {}),
  };
  const registry = createPrefixRegistry({
    ...registryOptions,
    fold: (...args) => folding.fold(...args),
    tryPrefix: (...args) => folding.tryPrefix(...args),
  });
  const constraints = new Constraints({
    tokenizer: model.tokenizer,
    eosIds: model.eosIds,
    positions: shape.positions,
    limits: {
      ...DEFAULT_LIMITS,
      sourceBytes: config.structuredSourceLimit,
      states: config.structuredStates,
      depth: config.structuredDepth,
      maskWork: config.structuredMaskWork,
      requestWork: config.structuredRequestWork,
      grammarBytes: Math.max(1024 ** 2, config.structuredCacheBytes / 8),
    },
    cacheBytes: config.structuredCacheBytes,
    observer: metrics,
  });
  const generation = new GenerationService({
    tokenRate,
    usage,
    engine,
    prefixes: registry,
    tokenizer: model.tokenizer,
    positions: shape.positions,
    eosIds: model.eosIds,
    allowBaseModel: config.allowBaseModel,
    constraints,
    metrics,
    mayEmit,
  });
  const everywhere = replica.everywhere(registry);
  const training = await openTraining(
    {
      config,
      store: replica.training,
      registry: everywhere,
      users: replica.users,
      engine,
      mayServe: mayEmit,
      broadcast: (command) => replica.broadcast(command),
      base: fingerprint,
      metrics,
      logger,
    },
    resources,
  );
  metrics.watch({
    engine: () => engine.stats(),
    prefixCache: () => replica.prefixCache.stats(),
    constraintCache: () => constraints.stats(),
    ...(training === null ? {} : { training: () => replica.training.counts() }),
    transfers: () => model.runtime.transfers,
    prefixBank: () => model.local.bankStats(),
    stepSizes: () => model.local.graphStats(),
    mayServe: mayEmit,
  });
  if (config.metricsCompat === "vllm")
    metrics.alsoAsVllm({
      model: model.name,
      positions: shape.positions,
      ...(config.metricsPrefixIds ? { prefixes: () => engine.prefixesInUse() } : {}),
    });
  const embeddings = embeddingDigests(model.checkpoint);
  if (config.prefixes !== "")
    await registerAdapters(createPrefixRegistry({ ...registryOptions, ...unmeteredFolding(engine) }), {
      dir: config.prefixes,
      keyed: replica.auth.keyed,
      modelName: model.name,
      weights: { limit: maxAdapterBytes(shape), embeddings },
      logger,
    });
  const audit = createAuditLog(config.auditLog, logger, secrets, config.replicaName);
  if (adminKeys !== null && config.adminKeyFile !== "")
    resources.defer(watchAdminKeys({ file: config.adminKeyFile, keys: adminKeys, secrets, logger, audit }));

  const workers = await openHttpWorkers(
    { count: config.httpWorkers, leaseUntil: replica.servesUntil, metrics, logger },
    resources,
  );
  const answers = new OpenAnswers(workers);
  await replica.join({ generation, folding, engine, answers, ...(training === null ? {} : { training }) });
  const checks = {
    model: () => model.check(),
    store: () => replica.check(),
    ...(workers === null ? {} : { http_workers: () => workers.check() }),
  };
  const app = await buildApp({
    modelName: model.name,
    shape,
    model: {
      fingerprint,
      device: config.device,
      precision: config.precision,
      allowBaseModel: config.allowBaseModel,
      defaults: model.defaults,
    },
    embeddings,
    tokenizer: model.tokenizer,
    chat: model.chat,
    generation,
    prefixes: everywhere,
    training,
    users: replica.users,
    removal: replica.removal,
    backup: () => paced(exportArchive(backend), { rate: config.backupRate, check: () => replica.mustServe() }),
    revocation: replica.revocation,
    auth: replica.auth,
    audit,
    metrics,
    tracing,
    logger,
    secrets,
    limits: {
      requestBody: config.requestBodyLimit,
      answer: config.answerLimit,
      maxN: model.maxN,
      slots: config.maxBatch,
      queue: config.maxQueue,
    },
    trustedProxies: config.trustedProxies === "" ? [] : config.trustedProxies.split(","),
    origins: originsOf(config),
    clients: clientLimits(config),
    uploads: UPLOADS,
    stream: { ...STREAM_DEFAULTS, bufferLimit: config.streamBuffer, sendMs: config.sendTimeout * 1000, mayEmit },
    snapshot: () => engine.snapshot(),
    answers,
    console: config.console === "on",
    // The server listens only after loading the model.
    checks,
  });
  const url = await listen(app, config, workers);
  adminPort?.loaded(checks, app.state);
  logger.info(
    {
      url,
      ...(adminPort === null ? {} : { admin_url: adminPort.url }),
      ...(config.console === "on" ? { console: `${url}/console` } : {}),
      model: model.name,
      fingerprint,
      device: config.device,
      precision: config.precision,
      slots: config.maxBatch,
    },
    "listening",
  );

  const stop = async (delaySeconds: number): Promise<void> => {
    logger.info({ delay_seconds: delaySeconds, seconds: config.drainTimeout }, "draining");
    await drain(
      { app, generation, engine },
      { delay: sleep(delaySeconds * 1000), graceMs: config.drainTimeout * 1000 },
    );
    await resources.release();
    logger.info("stopped");
  };
  let stopping: Promise<void> | null = null;
  return {
    url,
    deviceLost: model.deviceLost,
    stop: ({ delaySeconds } = { delaySeconds: config.drainDelay }) => (stopping ??= stop(delaySeconds)),
  };
}

/** Closed after all that it tells of. */
async function openAdminPort(
  { adminHost: host, adminPort: port }: Config,
  metrics: Metrics,
  logger: Logger,
  resources: Resources,
): Promise<AdminPort | null> {
  if (port === 0) return null;
  const opened = await AdminPort.open({ host, port, metrics, logger });
  resources.defer(() => opened.close());
  return opened;
}
