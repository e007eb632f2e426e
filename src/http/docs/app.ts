import { PrefixdError } from "../../errors.ts";
import { GenerationService } from "../../generation/service.ts";
import { createLogger } from "../../observability/logging.ts";
import { NO_SECRETS } from "../../observability/secrets.ts";
import { Metrics } from "../../observability/metrics.ts";
import { NOTHING_AROUND } from "../../text/tokenizer-json.ts";
import type { Tokenizer } from "../../text/tokenizer.ts";
import { createKeylessAuthenticator } from "../../users/authenticator.ts";
import { CLIENT_DEFAULTS, STREAM_DEFAULTS, type TypedApp } from "../app-parts.ts";
import { buildApp } from "../app.ts";
import { UPLOADS } from "../prefixes/transfer-gate.ts";

/** The app with nothing behind its routes: enough to describe it, without a model. */
export async function documentationApp(): Promise<TypedApp> {
  const nothing = (): never => {
    throw new PrefixdError("internal", "This app only describes itself.");
  };
  const tokenizer: Tokenizer = {
    vocabSize: 1,
    eosId: null,
    longestToken: 1,
    around: NOTHING_AROUND,
    named: new Map(),
    beyondModel: new Map(),
    encode: nothing,
    encodeInSteps: nothing,
    decode: nothing,
    bytesOf: nothing,
    tokenText: () => "",
    isSpecial: nothing,
  };
  const prefixes = {
    register: nothing,
    versions: nothing,
    restore: nothing,
    info: nothing,
    find: nothing,
    readable: nothing,
    list: nothing,
    listShared: nothing,
    isResident: nothing,
    held: nothing,
    openFile: nothing,
    remove: nothing,
    patch: nothing,
    resolve: nothing,
  };
  const users = {
    createUser: nothing,
    getUser: nothing,
    missingUsers: nothing,
    listUsers: nothing,
    putKey: nothing,
    findKey: nothing,
    listKeys: nothing,
    usage: nothing,
    usageUsers: nothing,
    usageSums: nothing,
  };
  const metrics = new Metrics({ processMetrics: false });
  const generation = new GenerationService({
    engine: { submit: nothing, refuseIfFull: nothing },
    prefixes,
    tokenizer,
    positions: 1,
    eosIds: [],
    allowBaseModel: true,
    metrics,
  });
  const { fastify } = await buildApp({
    modelName: "none",
    shape: { layers: 1, heads: 1, headDim: 1, width: 1, positions: 1, vocabSize: 1 },
    model: { fingerprint: "none", device: "cpu", precision: "fp32", allowBaseModel: true, defaults: {} },
    embeddings: nothing,
    tokenizer,
    generation,
    prefixes,
    training: null,
    users,
    removal: { removeUser: nothing, readmitUser: nothing },
    backup: nothing,
    revocation: { deleteKey: nothing, patchUser: nothing },
    auth: createKeylessAuthenticator(),
    chat: null,
    audit: { record: nothing },
    metrics,
    logger: createLogger("silent"),
    secrets: NO_SECRETS,
    limits: { requestBody: 1024, answer: 1024, maxN: 1, slots: 1, queue: 1 },
    trustedProxies: [],
    origins: [],
    clients: CLIENT_DEFAULTS,
    uploads: UPLOADS,
    stream: STREAM_DEFAULTS,
    snapshot: nothing,
    console: false,
    checks: {},
  });
  await fastify.ready();
  return fastify;
}
