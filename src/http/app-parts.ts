import type { TypeBoxTypeProvider } from "@fastify/type-provider-typebox";
import type { FastifyBaseLogger, FastifyInstance, RawReplyDefaultExpression, RawRequestDefaultExpression, RawServerDefault } from "fastify";
import type { GenerationService } from "../generate.ts";
import type { ModelShape } from "../kv.ts";
import type { AuditLog } from "../observability/audit.ts";
import type { Logger } from "../observability/logging.ts";
import type { Metrics } from "../observability/metrics.ts";
import type { PrefixRegistry } from "../prefixes/registry-types.ts";
import type { Tokenizer } from "../text/tokenizer.ts";
import type { Authenticator } from "../users/authenticator.ts";
import type { UserRemoval } from "../users/removal-types.ts";
import type { UserStore } from "../users/store.ts";
import type { SseOptions } from "./sse.ts";

export interface AppLimits {
  /** Bytes of a JSON body. */
  readonly requestBody: number;
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
}

/** What the HTTP side is made of. It makes none of it itself. */
export interface AppParts {
  readonly modelName: string;
  readonly shape: ModelShape;
  readonly model: ModelFacts;
  readonly tokenizer: Tokenizer;
  readonly generation: GenerationService;
  readonly prefixes: Pick<PrefixRegistry, "register" | "info" | "list" | "files" | "remove" | "patch">;
  readonly users: Omit<UserStore, "deleteUser" | "addUsage" | "onChange" | "ping" | "close">;
  readonly removal: UserRemoval;
  readonly auth: Authenticator;
  readonly audit: AuditLog;
  readonly metrics: Metrics;
  readonly logger: Logger;
  readonly limits: AppLimits;
  readonly stream: SseOptions;
  /** What must work for the server to be ready, by name: throws or rejects when it does not. */
  readonly checks: Readonly<Record<string, () => void | Promise<void>>>;
}

export const STREAM_DEFAULTS: SseOptions = { bufferLimit: 1024 ** 2, heartbeatMs: 15_000, lingerMs: 30_000 };

export type TypedApp = FastifyInstance<RawServerDefault, RawRequestDefaultExpression, RawReplyDefaultExpression, FastifyBaseLogger, TypeBoxTypeProvider>;
