import { createHash } from "node:crypto";
import type { AddressInfo } from "node:net";
import { Constraints } from "../../src/generation/constraints.ts";
import { FoldingService } from "../../src/generation/folding.ts";
import { GenerationService } from "../../src/generation/service.ts";
import { CLIENT_DEFAULTS, STREAM_DEFAULTS, type AppParts } from "../../src/http/app-parts.ts";
import { buildApp, type App } from "../../src/http/app.ts";
import { UPLOADS } from "../../src/http/prefixes/transfer-gate.ts";
import type { GenerationDefaults } from "../../src/http/generate/defaults-schema.ts";
import type { BaseEmbeddings } from "../../src/prefixes/adapter-weights.ts";
import type { AuditEntry } from "../../src/observability/audit.ts";
import { createLogger } from "../../src/observability/logging.ts";
import { Metrics } from "../../src/observability/metrics.ts";
import { SecretFilter } from "../../src/observability/secrets.ts";
import { createLocalBus, createReplicaHandler, type ReplicaParts } from "../../src/replicas/replica-bus.ts";
import { createRevocation } from "../../src/replicas/revocation.ts";
import { AdminKeys } from "../../src/users/admin-keys.ts";
import { createAuthenticator, createKeylessAuthenticator } from "../../src/users/authenticator.ts";
import { UserDirectory, withDirectory } from "../../src/users/directory.ts";
import { ChatTemplate } from "../../src/text/chat-template.ts";
import { DEFAULT_LIMITS } from "../../src/structured/limits.ts";
import { listen } from "../../src/http/server.ts";
import type { HttpWorkers } from "../../src/http/workers/pool.ts";
import { sharedHttpWorkers } from "./http-workers.ts";
import { createLocalRemoval } from "./local-removal.ts";
import { FakeEngine } from "./fake-engine.ts";
import { FakeRegistry } from "./fake-registry.ts";
import { FakeTokenizer } from "./fake-tokenizer.ts";
import { FakeUserStore } from "./fake-user-store.ts";

export interface TestApp extends App {
  readonly engine: FakeEngine;
  readonly registry: FakeRegistry;
  readonly generation: GenerationService;
  readonly metrics: Metrics;
  readonly users: FakeUserStore;
  /** Lines of the audit log so far, parsed. */
  readonly audits: AuditEntry[];
  /** Log lines so far. */
  readonly logs: string[];
  /** Listens on a free port. Default: with the workers that all tests have, if any. */
  listen(workers?: HttpWorkers): Promise<number>;
}

export const ADMIN_KEY = "test-admin-key-0123456789abcdef0123456789";

export const TEST_SHAPE = { layers: 1, heads: 2, headDim: 4, width: 8, positions: 64, vocabSize: 257 };

/** A turn is a letter for its role and its text; the answer's letter comes last. */
const TEST_CHAT = `{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('A system message comes first') }}{% endif %}{{ m.role[0] }}{{ m.content }}{% endfor %}{% if add_generation_prompt %}a{% endif %}`;

/** Embedding digests of a base model whose embeddings are all zeros. */
const zeroEmbeddings: BaseEmbeddings = async (dtype) => {
  const { vocabSize, width } = TEST_SHAPE;
  const sha256 = createHash("sha256")
    .update(new Uint8Array(vocabSize * width * (dtype === "F32" ? 4 : 2)))
    .digest("hex");
  return { shape: [vocabSize, width], sha256: { "wte.weight": sha256, "lm_head.weight": sha256 } };
};

/** Injected requests have timers that nobody stops: the test's process lives as long as the last of them. */
const SEND_MS = 5_000;
/** Their bodies never look complete, and a busy machine takes longer over a test than a client may over a body. */
const RECEIVE_MS = 120_000;

const unused = (): never => {
  throw new Error("nothing is folded here");
};

/** The real HTTP side over fakes; closed when the test ends. */
export async function buildTestApp(
  t: { teardown(fn: () => Promise<void>): unknown },
  over: Partial<AppParts> & {
    allowBaseModel?: boolean /** With the admin key ADMIN_KEY. */;
    keyed?: boolean /** Of requests. */;
    defaults?: GenerationDefaults;
  } = {},
): Promise<TestApp> {
  const { allowBaseModel = true, keyed = false, defaults = {}, ...rest } = over;
  const engine = new FakeEngine();
  const registry = new FakeRegistry();
  const metrics = new Metrics({ processMetrics: false });
  const tokenizer = new FakeTokenizer();
  const logs: string[] = [];
  const users = new FakeUserStore();
  const audits: AuditEntry[] = [];
  const secrets = new SecretFilter([ADMIN_KEY]);
  const constraints = new Constraints({
    tokenizer,
    eosIds: [tokenizer.eosId],
    positions: TEST_SHAPE.positions,
    limits: DEFAULT_LIMITS,
    cacheBytes: 1 << 24,
    observer: metrics,
  });
  const generation = new GenerationService({
    engine,
    prefixes: registry,
    tokenizer,
    positions: TEST_SHAPE.positions,
    eosIds: [tokenizer.eosId],
    allowBaseModel,
    constraints,
    metrics,
  });
  metrics.watch({
    engine: () => engine.stats(),
    prefixCache: () => ({ hits: 0, misses: 0, bytes: 0, entries: 0 }),
    constraintCache: () => constraints.stats(),
    transfers: () => ({ up: 0, down: 0 }),
    prefixBank: () => null,
    stepSizes: () => null,
  });
  const directory = new UserDirectory(users);
  const auth = withDirectory(
    keyed ? createAuthenticator({ store: users, adminKeys: new AdminKeys([ADMIN_KEY]) }) : createKeylessAuthenticator(),
    directory,
  );
  const replicaParts: ReplicaParts = {
    generation,
    folding: new FoldingService({ engine: { fold: unused, tryPrefix: unused, endFolds: () => {} } }),
    prefixCache: { evict: () => {}, invalidateUser: () => {}, clear: () => {} },
    engine: { wipeFreed: async () => {} },
    forget: (user) => {
      auth.forget(user);
      directory.forget(user);
    },
  };
  const app = await buildApp({
    modelName: "demo",
    shape: TEST_SHAPE,
    model: { fingerprint: "f".repeat(64), device: "cpu", precision: "fp32", allowBaseModel, defaults },
    embeddings: zeroEmbeddings,
    tokenizer,
    chat: new ChatTemplate(TEST_CHAT, tokenizer.named, "the tests' template"),
    generation,
    prefixes: registry,
    training: null,
    users,
    removal: createLocalRemoval({ users, prefixes: registry, replica: "test" }),
    revocation: createRevocation({ users, bus: createLocalBus(createReplicaHandler(replicaParts), "test") }),
    backup: async function* () {
      yield Buffer.from("an export");
    },
    auth,
    audit: { record: (entry) => void audits.push(entry) },
    metrics,
    logger: createLogger("info", { write: (line: string) => void logs.push(line) }, secrets),
    secrets,
    limits: { requestBody: 65_536, answer: 1 << 20, maxN: 4, slots: 8, queue: 256 },
    trustedProxies: [],
    origins: [],
    clients: { ...CLIENT_DEFAULTS, sendMs: SEND_MS, receiveMs: RECEIVE_MS },
    uploads: UPLOADS,
    stream: { ...STREAM_DEFAULTS, sendMs: SEND_MS },
    snapshot: () => engine.snapshot(),
    console: true,
    checks: { model: () => {}, store: () => registry.list("local", { limit: 1 }).then(() => {}) },
    ...rest,
  });
  t.teardown(async () => {
    engine.close();
    directory.close();
    app.fastify.server.closeAllConnections();
    await app.fastify.close();
  });
  const listenAnywhere = async (workers?: HttpWorkers): Promise<number> => {
    await listen(app, { host: "127.0.0.1", port: 0 }, workers ?? (await sharedHttpWorkers()));
    return (app.fastify.server.address() as AddressInfo).port;
  };
  return { ...app, engine, registry, generation, metrics, users, audits, logs, listen: listenAnywhere };
}

/** Arguments of `inject` for a JSON body. */
export const post = (url: string, payload: object): { method: "POST"; url: string; payload: object } => ({
  method: "POST",
  url,
  payload,
});

/**
 * A multipart body and its content type. A part without `name` has no file name, and one without `type` no content
 * type.
 */
export function form(
  files: readonly { name?: string; data: string | Buffer; field?: string; type?: string | undefined }[],
): { payload: Buffer; headers: Record<string, string> } {
  const boundary = "----prefixd-test";
  const parts = files.flatMap(
    ({ name, data, field = "file", type = name === undefined ? undefined : "application/octet-stream" }) => [
      Buffer.from(`--${boundary}\r\nContent-Disposition: form-data; name="${field}"`),
      Buffer.from(name === undefined ? "" : `; filename="${name}"`),
      Buffer.from(type === undefined ? "\r\n\r\n" : `\r\nContent-Type: ${type}\r\n\r\n`),
      Buffer.from(data),
      Buffer.from("\r\n"),
    ],
  );
  return {
    payload: Buffer.concat([...parts, Buffer.from(`--${boundary}--\r\n`)]),
    headers: { "content-type": `multipart/form-data; boundary=${boundary}` },
  };
}

export const ADAPTER = [
  { name: "adapter_config.json", data: '{"peft_type":"PREFIX_TUNING"}' },
  { name: "adapter_model.safetensors", data: "weights" },
] as const;

/** Resolves when `condition` holds; fails after two seconds. */
export async function until(condition: () => boolean): Promise<void> {
  const end = performance.now() + 2_000;
  while (!condition()) {
    if (performance.now() > end) throw new Error(`never came true: ${String(condition)}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
