import { foldLength, type FoldInput, type KvTensor } from "../kv.ts";
import type { ModelRunner } from "./runner.ts";
import type { FedPrompt } from "./scheduling/prefill-budget.ts";

/** Work on the row that no sequence uses (fold-queue.ts). */
export interface SideRun<T> extends FedPrompt {
  feed(from: number, to: number): Promise<void>;
  /** Called once all of it has been fed. */
  result(): Promise<T>;
}

/** Turns a soft or hard prompt into keys and values. */
export function foldRun(runner: ModelRunner, input: FoldInput): SideRun<KvTensor> {
  return {
    prefixLength: 0,
    promptLength: foldLength(input),
    answers: "none",
    feed: (from, to) => runner.fold(input, from, to),
    result: () => runner.read(runner.slots, foldLength(input)),
  };
}
