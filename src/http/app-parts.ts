import type { TypeBoxTypeProvider } from "@fastify/type-provider-typebox";
import type {
  FastifyBaseLogger,
  FastifyInstance,
  RawReplyDefaultExpression,
  RawRequestDefaultExpression,
  RawServerDefault,
} from "fastify";
import type { GenerationService } from "../generation/service.ts";
import type { ModelShape } from "../kv.ts";
import type { AuditLog } from "../observability/audit.ts";
import type { EngineSnapshot } from "../observability/engine-observer.ts";
import type { Logger } from "../observability/logging.ts";
import type { Metrics } from "../observability/metrics.ts";
import type { SecretFilter } from "../observability/secrets.ts";
import type { Tracing } from "../observability/tracing/trace.ts";
import type { BaseEmbeddings } from "../prefixes/adapter-weights.ts";
import type { PrefixRegistry } from "../prefixes/registry-types.ts";
import type { ChatTemplate } from "../text/chat-template.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { TrainingService } from "../training/jobs/service.ts";
import type { Authenticator } from "../users/authenticator.ts";
import type { UserRemoval } from "../replicas/removal-types.ts";
import type { Revocation } from "../replicas/revocation.ts";
import type { UserStore } from "../users/store.ts";
import type { GenerationDefaults } from "./generate/defaults-schema.ts";
import type { SseOptions } from "./sse.ts";
import type { OpenAnswers } from "./connections/open-answers.ts";
import type { GateLimits } from "./prefixes/transfer-gate.ts";

export interface AppLimits {
  /** Largest JSON body, in bytes. */
  readonly requestBody: number;
  /** Largest response to a generate request, in bytes; see answer-limit.ts. */
  readonly answer: number;
  /** Maximum choices per prompt. */
  readonly maxN: number;
  /** Rows of the KV cache: the limit of choices per request. */
  readonly slots: number;
  /** Maximum queue length. */
  readonly queue: number;
}

/** What `GET /model` reports besides name, shape and limits. */
export interface ModelFacts {
  readonly fingerprint: string;
  readonly device: string;
  readonly precision: string;
  readonly allowBaseModel: boolean;
  /** Defaults of request fields. */
  readonly defaults: GenerationDefaults;
}

/** Time and connections a client may use. Times in milliseconds. */
export interface ClientLimits {
  readonly maxConnections: number;
  /** Time limit for a request's headers. */
  readonly headerMs: number;
  /** Time limit for a whole request. */
  readonly requestMs: number;
  /** Longest pause in a body being read. */
  readonly receiveMs: number;
  /** Longest time a client may read nothing of its response. */
  readonly sendMs: number;
  /** Longest time between two requests. */
  readonly keepAliveMs: number;
}

/** Dependencies of the HTTP side, which constructs none of them. */
export interface AppParts {
  readonly modelName: string;
  readonly shape: ModelShape;
  readonly model: ModelFacts;
  readonly embeddings: BaseEmbeddings;
  readonly tokenizer: Tokenizer;
  /** null: the model has no chat template, so there is no chat. */
  readonly chat: ChatTemplate | null;
  readonly generation: GenerationService;
  readonly prefixes: Pick<
    PrefixRegistry,
    | "register"
    | "versions"
    | "restore"
    | "info"
    | "find"
    | "isResident"
    | "readable"
    | "list"
    | "listShared"
    | "held"
    | "openFile"
    | "remove"
    | "patch"
  >;
  /** null: this server does not train. */
  readonly training: TrainingService | null;
  readonly users: Omit<
    UserStore,
    | "deleteUser"
    | "deleteKey"
    | "patchUser"
    | "addUsage"
    | "deletedAt"
    | "noteDeletions"
    | "listDeletions"
    | "onChange"
    | "ping"
    | "close"
  >;
  readonly removal: UserRemoval;
  readonly revocation: Revocation;
  /** The bytes of an export of the store. */
  readonly backup: () => AsyncIterable<Uint8Array>;
  readonly auth: Authenticator;
  readonly audit: AuditLog;
  readonly metrics: Metrics;
  /** null or absent: requests are not traced. */
  readonly tracing?: Tracing | null;
  readonly logger: Logger;
  /** Secrets that a request id must not contain. */
  readonly secrets: SecretFilter;
  readonly limits: AppLimits;
  /** Addresses and networks whose X-Forwarded-For is believed. */
  readonly trustedProxies: readonly string[];
  /** Origins whose web pages may use the API. */
  readonly origins: readonly string[];
  readonly clients: ClientLimits;
  readonly uploads: GateLimits;
  readonly stream: SseOptions;
  /** Who runs and who waits now. */
  readonly snapshot: () => EngineSnapshot;
  /** null or absent: nobody asks for the answers of a user. */
  readonly answers?: OpenAnswers | null;
  /** Whether `/console` is served. */
  readonly console: boolean;
  /** Readiness checks by name; each throws or rejects if its part does not work. */
  readonly checks: Readonly<Record<string, () => void | Promise<void>>>;
}

/** Phases of `drain`. leaving: not ready, but serving. refusing: new requests are answered 503. */
export interface AppState {
  phase: "serving" | "leaving" | "refusing";
}

export const CLIENT_DEFAULTS: ClientLimits = {
  maxConnections: Infinity,
  headerMs: 20_000,
  requestMs: 300_000,
  receiveMs: 10_000,
  sendMs: 30_000,
  keepAliveMs: 72_000,
};
export const STREAM_DEFAULTS: SseOptions = { bufferLimit: 256 * 1024, heartbeatMs: 15_000, sendMs: 30_000 };

export type TypedApp = FastifyInstance<
  RawServerDefault,
  RawRequestDefaultExpression,
  RawReplyDefaultExpression,
  FastifyBaseLogger,
  TypeBoxTypeProvider
>;
