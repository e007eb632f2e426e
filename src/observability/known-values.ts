import { ANY_ROUTE_CODES, GENERATE_CODES } from "../errors.ts";

const PHASES = ["prefill", "decode", "fold"];

/** By metric and label: the values that are known before they occur. */
export const KNOWN_VALUES: Readonly<Record<string, Readonly<Record<string, readonly string[]>>>> = {
  prefixd_batch_size: { phase: PHASES },
  prefixd_step_seconds: { phase: PHASES },
  prefixd_step_tokens_total: { phase: PHASES },
  prefixd_sequences_total: { outcome: ["length", "eos", "stop", "removed", "cancelled", "error"] },
  prefixd_requests_total: { outcome: ["ok", "cancelled", "too_slow", ...ANY_ROUTE_CODES, ...GENERATE_CODES] },
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
