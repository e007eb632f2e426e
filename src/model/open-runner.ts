/** Opens the runner for a device. */
import type { ModelRunner } from "../engine/runner.ts";
import { DeviceError } from "../errors.ts";
import type { Runtime } from "../runtime/session.ts";
import { isStreamed } from "../runtime/stream-device.ts";
import { Gpt2Runner, type RunnerOptions } from "./gpt2-runner.ts";
import { PagedRunner, type GraphStats } from "./paged/runner.ts";
import type { PrefixBankStats } from "./prefix-bank.ts";

/** A runner in this process, whose state can be inspected. */
export interface LocalRunner extends ModelRunner {
  /** Prefixes in device memory; null when prefixes live in host memory. */
  bankStats(): PrefixBankStats | null;
  /** Whether the last bits of a row's answers depend on how many rows share its decode steps; null: not known. */
  readonly rowsChangeBits: boolean | null;
  /** Captured steps; null on devices that capture none. */
  graphStats(): GraphStats | null;
}

/**
 * @throws OrtError, CudaError when the graph cannot be loaded or the device runs out of memory, DeviceError when it
 * cannot be batch-invariant and has to; all its memory is freed
 */
export async function openRunner(runtime: Runtime, options: RunnerOptions): Promise<LocalRunner> {
  const { device, precision, batchInvariant = false } = options;
  if (isStreamed(device)) return PagedRunner.open(runtime, { ...options, device });
  const runner = await Gpt2Runner.open(runtime, options);
  if (!batchInvariant || !runner.rowsChangeBits) return runner;
  await runner.close();
  throw new DeviceError(
    device.kind,
    `its kernels in ${precision} round differently beside other requests, which --batch-invariant on forbids.`,
  );
}
