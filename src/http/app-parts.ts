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
import type { Logger } from "../observability/logging.ts";
import type { Metrics } from "../observability/metrics.ts";
import type { SecretFilter } from "../observability/secrets.ts";
import type { BaseEmbeddings } from "../prefixes/adapter-weights.ts";
import type { PrefixRegistry } from "../prefixes/registry-types.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { Authenticator } from "../users/authenticator.ts";
import type { UserRemoval } from "../replicas/removal-types.ts";
import type { UserStore } from "../users/store.ts";
import type { GenerationDefaults } from "./generate/defaults-schema.ts";
import type { SseOptions } from "./sse.ts";
import type { GateLimits } from "./prefixes/transfer-gate.ts";

export interface AppLimits {
  /** Bytes of a JSON body. */
  readonly requestBody: number;
  /** Bytes of a generate request's answer; see answer-limit.ts. */
  readonly answer: number;
  /** Choices per prompt. */
  readonly maxN: number;
  /** Rows of the KV cache: no request can have more choices than that. */
  readonly slots: number;
  /** Requests that may wait. */
  readonly queue: number;
}

/** What `GET /model` tells beside the name, the shape and the limits. */
export interface ModelFacts {
  readonly fingerprint: string;
  readonly device: string;
  readonly precision: string;
  readonly allowBaseModel: boolean;
  /** Of requests that do not say otherwise. */
  readonly defaults: GenerationDefaults;
}

/** What a client may take of the server's time and connections. Times in milliseconds. */
export interface ClientLimits {
  readonly maxConnections: number;
  /** For a request's headers to arrive. */
  readonly headerMs: number;
  /** For a whole request to arrive. */
  readonly requestMs: number;
  /** Without a byte of a body that is being read. */
  readonly receiveMs: number;
  /** Without a byte taken of an answer. */
  readonly sendMs: number;
  /** Between two requests. */
  readonly keepAliveMs: number;
}

/** What the HTTP side is made of. It makes none of it itself. */
export interface AppParts {
  readonly modelName: string;
  readonly shape: ModelShape;
  readonly model: ModelFacts;
  readonly embeddings: BaseEmbeddings;
  readonly tokenizer: Tokenizer;
  readonly generation: GenerationService;
  readonly prefixes: Pick<
    PrefixRegistry,
    "register" | "info" | "readable" | "list" | "listShared" | "held" | "openFile" | "remove" | "patch"
  >;
  readonly users: Omit<UserStore, "deleteUser" | "addUsage" | "onChange" | "ping" | "close">;
  readonly removal: UserRemoval;
  readonly auth: Authenticator;
  readonly audit: AuditLog;
  readonly metrics: Metrics;
  readonly logger: Logger;
  /** What a request id must not contain. */
  readonly secrets: SecretFilter;
  readonly limits: AppLimits;
  readonly clients: ClientLimits;
  readonly uploads: GateLimits;
  readonly stream: SseOptions;
  /** What must work for the server to be ready, by name: throws or rejects when it does not. */
  readonly checks: Readonly<Record<string, () => void | Promise<void>>>;
}

/** What `drain` goes through: leaving, the server is not ready but serves on; refusing, everything new is answered 503. */
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
