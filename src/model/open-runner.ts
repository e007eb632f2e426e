/** The runner that fits a device. */
import type { ModelRunner } from "../engine/runner.ts";
import type { KvTensor } from "../kv.ts";
import type { Runtime } from "../runtime/session.ts";
import { isStreamed } from "../runtime/stream-device.ts";
import { Gpt2Runner, type RunnerOptions } from "./gpt2-runner.ts";
import { PagedRunner, type GraphStats } from "./paged/runner.ts";
import type { PrefixBankStats } from "./prefix-bank.ts";

/** A runner in this process, which can be looked into. */
export interface LocalRunner extends ModelRunner {
  /** Of the prefixes in the device's memory; null where prefixes are in the process's own. */
  bankStats(): PrefixBankStats | null;
  /** Of captured steps; null where there is no such thing. */
  graphStats(): GraphStats | null;
  /** A copy of a row's keys and values at all positions: for tests of what is left in it. */
  readRow(row: number): KvTensor;
}

/** @throws OrtError, CudaError when the graph cannot be loaded or the device has not enough memory; nothing is left there then. */
export function openRunner(runtime: Runtime, options: RunnerOptions): Promise<LocalRunner> {
  const { device } = options;
  return isStreamed(device) ? PagedRunner.open(runtime, { ...options, device }) : Gpt2Runner.open(runtime, options);
}
