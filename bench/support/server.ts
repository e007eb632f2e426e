/** The real HTTP side over a given engine, with prefixes in memory: measures the server, not a store. */
import type { Server } from "node:http";
import type { Engine } from "../../src/engine/engine.ts";
import type { ModelRunner } from "../../src/engine/runner.ts";
import { PrefixdError } from "../../src/errors.ts";
import { GenerationService } from "../../src/generation/service.ts";
import { CLIENT_DEFAULTS, STREAM_DEFAULTS } from "../../src/http/app-parts.ts";
import { buildApp } from "../../src/http/app.ts";
import { listen } from "../../src/http/server.ts";
import type { HttpWorkers } from "../../src/http/workers/pool.ts";
import type { KvTensor } from "../../src/kv.ts";
import { createLogger } from "../../src/observability/logging.ts";
import { NO_SECRETS } from "../../src/observability/secrets.ts";
import { Metrics } from "../../src/observability/metrics.ts";
import type { Tracing } from "../../src/observability/tracing/trace.ts";
import type { PrefixRegistry } from "../../src/prefixes/registry-types.ts";
import { NOTHING_AROUND } from "../../src/text/tokenizer-json.ts";
import type { Tokenizer } from "../../src/text/tokenizer.ts";
import { createKeylessAuthenticator } from "../../src/users/authenticator.ts";
import { UPLOADS } from "../../src/http/prefixes/transfer-gate.ts";

/** The base model's name. */
export const BENCH_MODEL = "bench";

export interface Given {
  readonly tokenizer: Tokenizer;
  /** The engine's observer, if it has one that counts. */
  readonly metrics: Metrics;
  /** See EngineOptions. */
  readonly mayEmit: () => boolean;
  /** null: requests are not traced. */
  readonly tracing: Tracing | null;
  /** null: this process holds the connections. */
  readonly workers: HttpWorkers | null;
}

/** Listens on a free loopback port; prefix i has the id `p<i>`. Logging is off. */
export async function serveEngine(
  engine: Engine,
  runner: ModelRunner,
  prefixes: readonly KvTensor[],
  given: Partial<Given> = {},
): Promise<Server> {
  const { shape, slots } = runner;
  const {
    metrics = new Metrics(),
    tokenizer = hexTokenizer(shape.vocabSize),
    mayEmit = () => true,
    tracing = null,
    workers = null,
  } = given;
  metrics.watch({
    engine: () => engine.stats(),
    prefixCache: () => ({ hits: 0, misses: 0, bytes: 0, entries: 0 }),
    transfers: () => ({ up: 0, down: 0 }),
    prefixBank: () => null,
    stepSizes: () => null,
  });
  const registry = memoryRegistry(prefixes);
  const generation = new GenerationService({
    engine,
    prefixes: registry,
    tokenizer,
    positions: shape.positions,
    eosIds: [shape.vocabSize - 1],
    allowBaseModel: true,
    metrics,
    mayEmit,
  });
  const app = await buildApp({
    modelName: BENCH_MODEL,
    shape,
    model: { fingerprint: "none", device: "cpu", precision: "fp32", allowBaseModel: true, defaults: {} },
    embeddings: refuse,
    tokenizer,
    chat: null,
    generation,
    prefixes: registry,
    training: null,
    users: {
      createUser: refuse,
      getUser: refuse,
      missingUsers: refuse,
      listUsers: refuse,
      putKey: refuse,
      findKey: refuse,
      listKeys: refuse,
      usage: refuse,
      usageUsers: refuse,
      usageSums: refuse,
    },
    removal: { removeUser: refuse, readmitUser: refuse },
    backup: refuse,
    revocation: { deleteKey: refuse, patchUser: refuse },
    auth: createKeylessAuthenticator(),
    audit: { record: () => {} },
    metrics,
    tracing,
    logger: createLogger("silent"),
    secrets: NO_SECRETS,
    limits: { requestBody: 1 << 20, answer: 1 << 27, maxN: slots, slots, queue: engine.stats().maxQueue },
    trustedProxies: [],
    origins: [],
    clients: CLIENT_DEFAULTS,
    uploads: UPLOADS,
    stream: { ...STREAM_DEFAULTS, mayEmit },
    snapshot: () => engine.snapshot(),
    console: false,
    checks: {},
  });
  await listen(app, { host: "127.0.0.1", port: 0 }, workers);
  return app.fastify.server;
}

const refuse = (): never => {
  throw new PrefixdError("internal", "The benchmark's prefixes are fixed.");
};

export function memoryRegistry(prefixes: readonly KvTensor[]): PrefixRegistry {
  return {
    register: refuse,
    versions: refuse,
    restore: refuse,
    info: refuse,
    find: () => Promise.resolve(null),
    readable: refuse,
    list: refuse,
    listShared: refuse,
    held: refuse,
    isResident: () => false,
    openFile: refuse,
    remove: refuse,
    patch: refuse,
    async resolve(key) {
      const kv = prefixes[Number(key.name.slice(1))];
      if (kv === undefined) throw new PrefixdError("prefix_not_found", "There is no such prefix.");
      return { key, digest: key.name, kv };
    },
  };
}

/** Random weights have no vocabulary: every id is its number in hexadecimal and a space. */
function hexTokenizer(vocabSize: number): Tokenizer {
  const bytes = Array.from({ length: vocabSize }, (_, id) => Buffer.from(`${id.toString(16)} `));
  const bytesOf = (id: number): Uint8Array => bytes[id]!;
  return {
    vocabSize,
    eosId: vocabSize - 1,
    longestToken: 6,
    around: NOTHING_AROUND,
    named: new Map(),
    beyondModel: new Map(),
    encode: (text) => Int32Array.from(text.trim().split(" "), (word) => parseInt(word, 16)),
    *encodeInSteps(text) {
      return this.encode(text);
    },
    decode: (ids) => Buffer.concat(Array.from(ids, bytesOf)).toString(),
    bytesOf,
    tokenText: (id) => bytes[id]!.toString(),
    isSpecial: (id) => id === vocabSize - 1,
  };
}
