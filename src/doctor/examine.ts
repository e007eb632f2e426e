/** Everything that `prefixd doctor` finds out, as one plain object. */
import { fileURLToPath } from "node:url";
import { DEVICE_PRECISIONS } from "../config-schema.ts";
import type { Precision } from "../model/graph-weights.ts";
import type { DeviceKind } from "../runtime/device.ts";
import { DEVICES } from "../runtime/devices.ts";
import { defaultLibraryPath, OrtApi } from "../runtime/ort-api.ts";
import { folderHolder } from "../lmdb/folder-lock.ts";
import { readProcessLimits } from "../system-files.ts";
import { VERSION } from "../version.ts";
import { examineCuda } from "./cuda.ts";
import type { Findings } from "./findings.ts";
import { httpWorkerProblem, processorsForWorkers, type HttpWorkersReport, type TrialOptions } from "./http-workers.ts";
import { examineMachine, warningsOf, type MachineReport } from "./machine.ts";
import { runSelfTest, type SelfTestProcessOptions, type SelfTestReport } from "./self-test-process.ts";
import { examineVulkan } from "./vulkan.ts";

export interface DeviceReport extends Findings {
  /** True if the self-test passed in at least one precision. */
  readonly usable: boolean;
  /** One per precision that `--precision` accepts for this device, the default first. */
  readonly self_tests: readonly SelfTestReport[];
}

/** What `--json` prints. */
export interface Report {
  /** True if the requested device passed its self-test in the requested precision. */
  readonly ok: boolean;
  readonly device: DeviceKind;
  readonly precision: Precision;
  readonly prefixd: string;
  readonly onnxruntime: {
    readonly version: string | null;
    readonly library: string | null;
    readonly problem: string | null;
  };
  readonly machine: MachineReport;
  readonly warnings: readonly string[];
  readonly devices: Readonly<Partial<Record<DeviceKind, DeviceReport>>>;
  readonly http_workers: HttpWorkersReport;
}

export interface ExamineOptions {
  readonly device: DeviceKind;
  readonly precision: Precision;
  /** `--max-batch` */
  readonly slots: number;
  /** `--threads` */
  readonly threads?: number;
  /** The embedded store's folder; null if there is none. */
  readonly storeFolder?: string | null;
  /** Default: all. */
  readonly devices?: readonly DeviceKind[];
  /** Default: the package's models/selftest. */
  readonly folder?: string;
  readonly selfTest?: SelfTestProcessOptions;
  readonly httpWorker?: TrialOptions;
}

const PACKAGE_ROOT = new URL("../../", import.meta.url);
const SELF_TEST_FOLDER = fileURLToPath(new URL("models/selftest", PACKAGE_ROOT));

/** Tries devices one after the other. Never rejects because the machine lacks something. */
export async function examine(options: ExamineOptions): Promise<Report> {
  const { device, precision, slots, threads = 0, storeFolder = null, folder = SELF_TEST_FOLDER } = options;
  const onnxruntime = examineOnnxRuntime();
  const findings: Readonly<Record<DeviceKind, () => Findings>> = {
    cpu: () => ({ facts: [], missing: [] }),
    webgpu: () => examineVulkan(),
    cuda: () => examineCuda(onnxruntime.library),
  };
  const devices: Partial<Record<DeviceKind, DeviceReport>> = {};
  for (const kind of options.devices ?? (Object.keys(DEVICES) as DeviceKind[])) {
    const tests: SelfTestReport[] = [];
    // Whatever seems to be missing, only a trial shows whether the device works.
    for (const tried of DEVICE_PRECISIONS[kind])
      tests.push(await runSelfTest({ device: kind, precision: tried, folder }, options.selfTest));
    devices[kind] = { usable: tests.some(({ passed }) => passed), ...findings[kind](), self_tests: tests };
  }
  const machine = examineMachine();
  const { hostMemory } = DEVICES[device];
  const problem = await httpWorkerProblem(options.httpWorker);
  return {
    ok: devices[device]?.self_tests.some((test) => test.precision === precision && test.passed) ?? false,
    device,
    precision,
    prefixd: VERSION,
    onnxruntime,
    machine,
    warnings: [
      ...warningsOf({ machine, processLimits: readProcessLimits(), slots, hostMemory }),
      ...storeWarnings(storeFolder),
    ],
    devices,
    http_workers: {
      usable: problem === null,
      problem,
      processors: processorsForWorkers(machine.cpu, hostMemory ? threads : null),
    },
  };
}

function storeWarnings(dir: string | null): string[] {
  const holder = dir === null ? null : folderHolder(dir);
  return holder === null ? [] : [`${dir} is in use by ${holder}: another server cannot start on it.`];
}

function examineOnnxRuntime(): Report["onnxruntime"] {
  let library: string | null = null;
  try {
    library = defaultLibraryPath();
    return { version: new OrtApi(library).version, library, problem: null };
  } catch (error) {
    return { version: null, library, problem: (error as Error).message };
  }
}
