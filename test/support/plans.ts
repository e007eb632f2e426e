/** Plans that only tests and benchmarks make: the simplest policy, and limits without time. */
import { MAX_PASSED_OVER, type PrefillLimits, type QueuePolicy } from "../../src/engine/scheduling/plan.ts";

/** First come, first served, but one that does not fit does not block the rest until it has been passed over too often. */
export const firstFit: QueuePolicy = (queue, freeRows) => {
  for (const [index, request] of queue.entries()) {
    if (request.rows <= freeRows) return { request, passedOver: queue.slice(0, index) };
    if (request.passedOver >= MAX_PASSED_OVER) return null;
  }
  return null;
};

/** Chunks as long as can be. */
export function tokenLimits(tokens: number, quantum: number): PrefillLimits<unknown> {
  return { tokens, quantum, milliseconds: Infinity, least: tokens, cost: () => 0 };
}
