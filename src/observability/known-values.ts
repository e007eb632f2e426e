import type { ErrorCode } from "../errors.ts";

/** How a generate request can end that was refused or failed. */
const REFUSALS = [
  "unauthorized",
  "forbidden",
  "host_not_allowed",
  "invalid_request",
  "unknown_field",
  "unsupported_parameter",
  "invalid_parameter",
  "empty_prompt",
  "invalid_token_id",
  "constraint_invalid",
  "constraint_unsupported",
  "constraint_too_complex",
  "invalid_prefix_id",
  "context_exceeded",
  "answer_too_large",
  "body_too_large",
  "unsupported_media_type",
  "prefix_not_found",
  "prefix_base_mismatch",
  "prefix_damaged",
  "prefix_overflows",
  "base_model_disabled",
  "queue_full",
  "user_queue_full",
  "queue_timeout",
  "token_rate_exceeded",
  "store_unavailable",
  "removed",
  "model_failed",
  "device_lost",
  "draining",
  "internal",
] as const satisfies ErrorCode[];

const PHASES = ["prefill", "decode", "fold"];

/** By metric and label: the values that are known before they occur. */
export const KNOWN_VALUES: Readonly<Record<string, Readonly<Record<string, readonly string[]>>>> = {
  prefixd_batch_size: { phase: PHASES },
  prefixd_step_seconds: { phase: PHASES },
  prefixd_step_tokens_total: { phase: PHASES },
  prefixd_sequences_total: { outcome: ["length", "eos", "stop", "removed", "cancelled", "error"] },
  prefixd_requests_total: { outcome: ["ok", "cancelled", "too_slow", ...REFUSALS] },
  prefixd_tokens_total: { kind: ["prefix", "prompt", "completion"] },
  prefixd_constraint_refusals_total: {
    reason: ["constraint_invalid", "constraint_unsupported", "constraint_too_complex"],
  },
  prefixd_training_jobs: { state: ["queued", "running"] },
  prefixd_training_jobs_total: { outcome: ["succeeded", "failed", "cancelled"] },
  prefixd_device_bytes_total: { direction: ["up", "down"] },
  prefixd_connections_cut_total: { reason: ["too_many", "not_sending", "not_reading"] },
};

/** Every combination of the labels' values: `{a: ["x", "y"]}` gives `{a: "x"}` and `{a: "y"}`. */
export function combinations(labels: Readonly<Record<string, readonly string[]>>): Record<string, string>[] {
  return Object.entries(labels).reduce<Record<string, string>[]>(
    (all, [label, values]) => all.flatMap((one) => values.map((value) => ({ ...one, [label]: value }))),
    [{}],
  );
}
