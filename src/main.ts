/** Composition root: config -> parts -> listen -> drain. The only place, besides the command line, that constructs concrete parts. */
import { join } from "node:path";
import { isWorldReadable, lmdbFolder, secretsOf, type Config } from "./config.ts";
import { Engine } from "./engine/engine.ts";
import { SupervisedRunner } from "./engine/supervised-runner.ts";
import { DeviceError, lostTouch, PrefixdError } from "./errors.ts";
import { FoldingService } from "./generation/folding.ts";
import { GenerationService } from "./generation/service.ts";
import { STREAM_DEFAULTS, type ClientLimits } from "./http/app-parts.ts";
import { buildApp } from "./http/app.ts";
import { generationDefaults } from "./http/generate/defaults.ts";
import { connectionsAllowed } from "./http/connections/open-files.ts";
import { drain, listen } from "./http/server.ts";
import { UPLOADS } from "./http/prefixes/transfer-gate.ts";
import { openCheckpoint, type Checkpoint } from "./model/checkpoint.ts";
import { embeddingDigests } from "./model/embedding-digests.ts";
import type { RunnerOptions } from "./model/gpt2-runner.ts";
import { openRunner, type LocalRunner } from "./model/open-runner.ts";
import { ensureGraph } from "./model/graph-cache.ts";
import { resolveModel } from "./model/hub.ts";
import { createAuditLog } from "./observability/audit.ts";
import { createLogger, type Logger } from "./observability/logging.ts";
import { Metrics } from "./observability/metrics.ts";
import { observeErrors } from "./observability/observe-errors.ts";
import { SecretFilter } from "./observability/secrets.ts";
import type { WeightsOptions } from "./prefixes/adapter-weights.ts";
import { baseModelName, baseNameDiffers } from "./prefixes/base-name.ts";
import { createPrefixCache } from "./prefixes/cache.ts";
import { adapterFolders, readAdapterFolder } from "./prefixes/folder.ts";
import { openLmdbStore } from "./lmdb/prefix-store.ts";
import { RedisConnection } from "./redis/connection.ts";
import { openRedisStore } from "./redis/prefix-store.ts";
import { maxAdapterBytes } from "./prefixes/peft.ts";
import { createPrefixRegistry } from "./prefixes/registry.ts";
import type { PrefixRegistry } from "./prefixes/registry-types.ts";
import type { PrefixStore } from "./prefixes/store.ts";
import { DEVICES } from "./runtime/devices.ts";
import { CudaError } from "./runtime/cuda.ts";
import { OrtError } from "./runtime/ort-api.ts";
import { Runtime } from "./runtime/session.ts";
import { FolderInUseError, lockFolder } from "./lmdb/folder-lock.ts";
import { loadTokenizer, type Tokenizer } from "./text/tokenizer.ts";
import { createAuthenticator, createKeylessAuthenticator, type Authenticator } from "./users/authenticator.ts";
import { UserDirectory } from "./users/directory.ts";
import { openLmdbUserStore } from "./lmdb/user-store.ts";
import { openRedisReplicaBus } from "./redis/replica-bus.ts";
import { RedisTokenBuckets } from "./redis/token-rate.ts";
import { openRedisUserStore } from "./redis/user-store.ts";
import { createUserRemoval, removeEverywhere } from "./replicas/removal.ts";
import {
  createLocalBus,
  createReplicaHandler,
  dropEverything,
  type ReplicaBus,
  type ReplicaParts,
} from "./replicas/replica-bus.ts";
import { userShares } from "./users/shares.ts";
import type { UserStore } from "./users/store.ts";
import { MemoryTokenBuckets, UserTokenRate, type TokenBuckets } from "./users/token-rate.ts";
import { UsageRecorder } from "./users/usage.ts";
import { ADMIN_USER, LOCAL_USER } from "./users/user-id.ts";

export interface RunningServer {
  /** Such as `http://127.0.0.1:8080`. */
  readonly url: string;
  /** Resolves if the device is lost that the model runs on: all requests end then, and only a new process can serve again. */
  readonly deviceLost: Promise<PrefixdError>;
  /**
   * Goes on serving for `delaySeconds` (default: `drainDelay`), then takes nothing new, lets running requests end for at most
   * `drainTimeout` seconds, and frees everything. Called again it answers the same.
   */
  stop(options?: { delaySeconds: number }): Promise<void>;
}

/**
 * Starts a server and resolves when it answers requests.
 * @throws FolderInUseError, ModelLoadError, DeviceError, PrecisionError, OrtError, PrefixdError (store, adapters), the system's errors for the address; nothing is left open then.
 */
export async function startServer(
  config: Config,
  logger: Logger = createLogger(config.logLevel, undefined, secretFilter(config)),
): Promise<RunningServer> {
  const resources = new Resources();
  try {
    return await start(config, logger, resources);
  } catch (error) {
    await resources.release();
    throw error;
  }
}

async function start(config: Config, logger: Logger, resources: Resources): Promise<RunningServer> {
  const secrets = secretFilter(config);
  await lockStore(config, logger, resources);
  const checkpoint = await openModel(config, logger);
  resources.defer(() => checkpoint.close());
  const { shape, fingerprint } = checkpoint;
  const tokenizer = await loadTokenizer(checkpoint.dir, shape.vocabSize);
  warnOfTokensBeyond(tokenizer, logger);
  const maxN = Math.min(config.maxN, config.maxBatch);
  const defaults =
    config.generationConfig === "none"
      ? {}
      : generationDefaults(checkpoint.generation, { vocabSize: shape.vocabSize, maxN });
  if (Object.keys(defaults).length > 0)
    logger.info({ defaults }, "the model's generation_config.json gives defaults of requests");

  const device = DEVICES[config.device];
  const modelPath = await ensureGraph(checkpoint, join(config.cacheDir, "graphs"), config.precision, device);
  const runtime = new Runtime();
  resources.defer(() => runtime[Symbol.dispose]());
  const deviceLost = new Deferred<PrefixdError>();
  const gpt2 = await openOnDevice(runtime, {
    modelPath,
    shape,
    slots: config.maxBatch,
    threads: config.threads,
    spinTime: config.spinTime,
    device,
    precision: config.precision,
    bankBytes: config.prefixBankBytes,
  });
  if (device.kind === "webgpu" && gpt2.longestChunk < config.prefillChunk) {
    logger.warn(
      { tokens: gpt2.longestChunk },
      "this adapter's attention kernel is wrong for longer chunks of prompt: they are fed in shorter ones",
    );
  }
  for (const { size, reason } of gpt2.graphStats()?.eager ?? [])
    logger.warn(
      { size, reason },
      "this size of step could not be captured as one graph: it runs kernel by kernel, which is slower",
    );
  const runner = device.hostMemory
    ? gpt2
    : new SupervisedRunner(gpt2, {
        timeoutMs: config.stepTimeout * 1000,
        onLost: (error) => deviceLost.resolve(error),
      });
  resources.defer(() => runner.close());

  const metrics = new Metrics();
  resources.defer(() => metrics.close());
  // A precondition that fails is an answer, not a fault of the store.
  const countFault = (op: string, error: unknown): void => {
    if (!(error instanceof PrefixdError) || error.status >= 500) metrics.storeError(op);
  };
  const users = observeErrors(await openUserStore(config, logger), countFault);
  resources.defer(() => users.close());
  const directory = new UserDirectory(users);
  resources.defer(() => directory.close());
  // The bus ends requests, so it is made after what it ends; until then nothing may be served.
  const replica: { bus?: ReplicaBus } = {};
  const mayEmit = (): boolean => replica.bus?.mayServe() ?? false;
  const engine = new Engine({
    runner,
    maxQueue: config.maxQueue,
    queueTimeoutMs: config.queueTimeout === 0 ? Infinity : config.queueTimeout * 1000,
    prefillChunk: config.prefillChunk,
    prefillShare: config.prefillShare,
    observer: metrics,
    shares: userShares((user) => directory.find(user)),
    mayEmit,
  });
  const store = observeErrors(await openStore(config, logger), countFault);
  resources.defer(() => store.close());
  const cache = createPrefixCache({
    store,
    shape,
    maxBytes: config.prefixCacheBytes,
    ...(lmdbFolder(config.store) !== null ? { verifyMs: 0 } : {}),
  });
  resources.defer(() => cache.close());
  const embeddings = embeddingDigests(checkpoint);
  const modelName = baseModelName(config.model) ?? "model";
  const tokenRate = new UserTokenRate(
    openTokenBuckets(config, logger, resources),
    (user) => directory.find(user)?.limits.tokens_per_minute ?? null,
  );
  const usage = new UsageRecorder({ sink: users, onError: () => metrics.storeError("addUsage") });
  resources.defer(async () => void (await usage.close()));
  const folding = new FoldingService({ engine, tokenRate, usage });
  const registryOptions = {
    store,
    cache,
    shape,
    baseFingerprint: fingerprint,
    ...(config.requireBaseName ? { requiredBaseName: modelName } : {}),
  };
  const registry = createPrefixRegistry({
    ...registryOptions,
    fold: (...args) => folding.fold(...args),
    tryPrefix: (...args) => folding.tryPrefix(...args),
  });
  metrics.watch({
    engine: () => engine.stats(),
    prefixCache: () => cache.stats(),
    transfers: () => runtime.transfers,
    prefixBank: () => gpt2.bankStats(),
    stepSizes: () => gpt2.graphStats(),
  });
  // Nobody asked for these, so nobody is charged.
  const unmetered = createPrefixRegistry({
    ...registryOptions,
    fold: (input, { user }) => engine.fold(input, { tenant: user }),
    tryPrefix: (kv, { user }) => engine.tryPrefix(kv, { tenant: user }),
  });
  if (config.prefixes !== "")
    await registerFolder(unmetered, config, modelName, { limit: maxAdapterBytes(shape), embeddings }, logger);

  const auth =
    config.adminKey === null
      ? createKeylessAuthenticator()
      : createAuthenticator({ store: users, adminKey: config.adminKey });
  resources.defer(() => auth.close());
  if (config.adminKeyFile !== "" && isWorldReadable(config.adminKeyFile))
    logger.warn({ file: config.adminKeyFile }, "the file of the admin key can be read by everybody on this machine");

  const { eosIds: configured } = checkpoint.config;
  const eosIds = configured.length > 0 || tokenizer.eosId === null ? configured : [tokenizer.eosId];
  const generation = new GenerationService({
    tokenRate,
    usage,
    engine,
    prefixes: registry,
    tokenizer,
    positions: shape.positions,
    eosIds,
    allowBaseModel: config.allowBaseModel,
    metrics,
    mayEmit,
  });
  const forget = (user: string | null): void => {
    auth.forget(user);
    directory.forget(user);
  };
  const settle = async (user: string): Promise<void> => {
    await usage.flush();
    // What could not be written must not be billed to a later user of the same id.
    await usage.forget(user);
  };
  const bus = await openBus(config, logger, { generation, folding, prefixCache: cache, engine, forget, settle });
  replica.bus = bus;
  resources.defer(() => bus.close());
  const app = await buildApp({
    modelName,
    shape,
    model: {
      fingerprint,
      device: config.device,
      precision: config.precision,
      allowBaseModel: config.allowBaseModel,
      defaults,
    },
    embeddings,
    tokenizer,
    generation,
    prefixes: removeEverywhere(registry, bus),
    users,
    removal: createUserRemoval({ users, prefixes: store, bus }),
    auth: withDirectory(auth, directory),
    audit: createAuditLog(config.auditLog, logger, secrets),
    metrics,
    logger,
    secrets,
    limits: {
      requestBody: config.requestBodyLimit,
      answer: config.answerLimit,
      maxN,
      slots: config.maxBatch,
      queue: config.maxQueue,
    },
    clients: clientLimits(config),
    uploads: UPLOADS,
    stream: { ...STREAM_DEFAULTS, bufferLimit: config.streamBuffer, sendMs: config.sendTimeout * 1000, mayEmit },
    // Listening starts after the model has been loaded.
    checks: {
      model: () => {
        if (deviceLost.value !== null) throw deviceLost.value;
      },
      store: async () => {
        await store.ping();
        if (!mayEmit()) throw lostTouch();
      },
    },
  });
  const url = await listen(app, config);
  logger.info(
    { url, model: modelName, fingerprint, device: config.device, precision: config.precision, slots: config.maxBatch },
    "listening",
  );

  const stop = async (delaySeconds: number): Promise<void> => {
    logger.info({ delay_seconds: delaySeconds, seconds: config.drainTimeout }, "draining");
    await drain({ app, generation, engine }, { delayMs: delaySeconds * 1000, graceMs: config.drainTimeout * 1000 });
    await resources.release();
    logger.info("stopped");
  };
  let stopping: Promise<void> | null = null;
  return {
    url,
    deviceLost: deviceLost.promise,
    stop: ({ delaySeconds } = { delaySeconds: config.drainDelay }) => (stopping ??= stop(delaySeconds)),
  };
}

const secretFilter = (config: Config): SecretFilter => new SecretFilter(secretsOf(config));

/** As after transformers' `add_special_tokens({"pad_token": "[PAD]"})` without a resize. */
function warnOfTokensBeyond({ beyondModel, vocabSize }: Tokenizer, logger: Logger): void {
  if (beyondModel.size === 0) return;
  const tokens = [...beyondModel].slice(0, 20).map(([id, token]) => ({ id, token }));
  logger.warn(
    { count: beyondModel.size, tokens, vocab_size: vocabSize },
    "the tokenizer has tokens that the model has no embedding for: prompts with one of them are refused",
  );
}

function clientLimits(config: Config): ClientLimits {
  const { headerTimeout, requestTimeout, receiveTimeout, sendTimeout, keepAliveTimeout } = config;
  return {
    maxConnections: config.maxConnections || connectionsAllowed(),
    headerMs: headerTimeout * 1000,
    requestMs: requestTimeout * 1000,
    receiveMs: receiveTimeout * 1000,
    sendMs: sendTimeout * 1000,
    keepAliveMs: keepAliveTimeout * 1000,
  };
}

/** @throws DeviceError where the CPU would have done, PrecisionError, OrtError, CudaError */
async function openOnDevice(runtime: Runtime, options: RunnerOptions): Promise<LocalRunner> {
  try {
    return await openRunner(runtime, options);
  } catch (error) {
    const reported = error instanceof PrefixdError ? error.cause : error;
    if (options.device.hostMemory || !(reported instanceof OrtError || reported instanceof CudaError)) throw error;
    throw new DeviceError(options.device.kind, reported.reason.replace(/[^.]$/, "$&."), { cause: error });
  }
}

/** Weight and limits of whoever has been recognised are in memory before the request asks for them. */
function withDirectory(auth: Authenticator, directory: UserDirectory): Authenticator {
  return {
    keyed: auth.keyed,
    async authenticate(authorization) {
      const principal = await auth.authenticate(authorization);
      if (principal.role === "user") await directory.load(principal.user);
      return principal;
    },
    forget: (user) => auth.forget(user),
    close: () => auth.close(),
  };
}

/** Shared by the replicas that share the store. */
function openTokenBuckets(config: Config, logger: Logger, resources: Resources): TokenBuckets {
  if (lmdbFolder(config.store) !== null) return new MemoryTokenBuckets();
  const redis = new RedisConnection({ url: config.store, onError: (error) => logger.warn({ err: error }, "redis") });
  resources.defer(() => redis.close());
  return new RedisTokenBuckets(redis);
}

async function openModel(config: Config, logger: Logger): Promise<Checkpoint> {
  const onFile = (name: string, bytes: number): void => logger.info({ file: name, bytes }, "downloading");
  const dir = await resolveModel(config.model, { cacheDir: config.cacheDir, onFile });
  return openCheckpoint(dir, { cacheDir: config.cacheDir });
}

/** Before anything that takes time: a second server on the folder ends at once. Released last. */
async function lockStore(config: Config, logger: Logger, resources: Resources): Promise<void> {
  const dir = lmdbFolder(config.store);
  if (dir === null) return;
  const lock = await lockFolder(dir).catch((error: unknown) => {
    throw error instanceof FolderInUseError
      ? error
      : new PrefixdError("store_unavailable", `The folder of --store lmdb:${dir} cannot be made or written`, {
          cause: error,
        });
  });
  resources.defer(() => lock.release());
  if (lock.problem !== null)
    logger.warn(
      { dir, problem: lock.problem },
      "the file system of the store has no locks: nothing keeps a second server from starting on this folder",
    );
}

function openStore(config: Config, logger: Logger): Promise<PrefixStore> {
  const dir = lmdbFolder(config.store);
  if (dir !== null) return openLmdbStore({ dir });
  return openRedisStore({
    url: config.store,
    waitReplicas: config.redisWaitReplicas,
    onError: (error) => logger.warn({ err: error }, "redis"),
  });
}

function openBus(config: Config, logger: Logger, parts: ReplicaParts): Promise<ReplicaBus> {
  const handler = createReplicaHandler(parts);
  if (lmdbFolder(config.store) !== null) return Promise.resolve(createLocalBus(handler));
  const onLapse = (): void => {
    logger.warn("the lease in Redis has run out: nothing is served until it is renewed");
    dropEverything(parts, lostTouch());
  };
  return openRedisReplicaBus({
    url: config.store,
    handler,
    onLapse,
    onError: (error) => logger.warn({ err: error }, "redis"),
  });
}

function openUserStore(config: Config, logger: Logger): Promise<UserStore> {
  const dir = lmdbFolder(config.store);
  if (dir !== null) return openLmdbUserStore({ dir });
  return openRedisUserStore({
    url: config.store,
    waitReplicas: config.redisWaitReplicas,
    onError: (error) => logger.warn({ err: error }, "redis"),
  });
}

/**
 * Registers each sub-folder under its name; what is there already with the same content stays as it is. Where there are users, the
 * admin owns them and they are shared: everybody's `admin/name`.
 */
async function registerFolder(
  registry: PrefixRegistry,
  { prefixes: dir, adminKey }: Config,
  modelName: string,
  weights: WeightsOptions,
  logger: Logger,
): Promise<void> {
  const user = adminKey === null ? LOCAL_USER : ADMIN_USER;
  const { names, leftOut } = await adapterFolders(dir);
  for (const { name, reason, level } of leftOut)
    logger[level]({ path: join(dir, name), reason }, "left out of --prefixes");
  for (const name of names) {
    const path = join(dir, name);
    const registered = await readAdapterFolder(path, weights)
      .then((upload) => registry.register({ user, name }, upload))
      .catch((error: unknown) => {
        // It may have been served before this was looked at: the others are served now.
        if (error instanceof PrefixdError && error.code === "prefix_overflows") {
          logger.error({ path, reason: error.message }, "left out of --prefixes");
          return null;
        }
        throw error instanceof PrefixdError && error.status < 500 && !error.message.includes(path)
          ? new PrefixdError(error.code, `${path}: ${error.message}`, { cause: error })
          : error;
      });
    if (registered === null) continue;
    const { meta, created } = registered;
    if (adminKey !== null) await registry.patch({ user, name }, { visibility: "shared" });
    logger.info({ prefix: name, digest: meta.digest, virtual_tokens: meta.length, created }, "registered");
    const mismatch = baseNameDiffers(meta.baseName, modelName);
    if (mismatch !== null) logger.warn({ prefix: name, base_model_name_or_path: meta.baseName }, mismatch);
  }
}

/** A promise that whoever holds it can resolve. Node 20 has no Promise.withResolvers. */
class Deferred<T> {
  value: T | null = null;
  readonly promise: Promise<T>;
  #settle!: (value: T) => void;

  constructor() {
    this.promise = new Promise((resolve) => (this.#settle = resolve));
  }

  resolve(value: T): void {
    this.value = value;
    this.#settle(value);
  }
}

/** What has been opened, released in reverse. Node 20 has no AsyncDisposableStack. */
class Resources {
  readonly #releases: (() => void | Promise<void>)[] = [];

  defer(release: () => void | Promise<void>): void {
    this.#releases.push(release);
  }

  async release(): Promise<void> {
    for (const release of this.#releases.splice(0).reverse()) await release();
  }
}
