/**
 * Time of each kernel of a WebGPU session by the device's clock, and of its node on the host, from ONNX Runtime's
 * profile.
 */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import koffi from "koffi";
import { defaultLibraryPath, OrtApi, type SessionOptionsHandle } from "../../src/runtime/ort-api.ts";
import { Runtime } from "../../src/runtime/session.ts";

const POINTER = "void *";
/** Position in OrtApi. */
const ENABLE_PROFILING = 14;
const API_VERSION = 22;

type Enable = (options: SessionOptionsHandle, prefix: string) => unknown;

/** Sessions created with it write a profile to `folder` when they are released. */
class ProfilingApi extends OrtApi {
  readonly folder = mkdtempSync(join(tmpdir(), "webgpu-profile-"));
  readonly #enable: Enable;

  constructor() {
    super();
    const base = koffi.decode(
      koffi.load(defaultLibraryPath()).func("OrtGetApiBase", POINTER, [])(),
      koffi.array(POINTER, 2),
    ) as bigint[];
    const api = (koffi.decode(base[0], koffi.proto(POINTER, ["uint32_t"])) as (version: number) => bigint)(API_VERSION);
    const table = koffi.decode(api, koffi.array(POINTER, ENABLE_PROFILING + 1)) as bigint[];
    this.#enable = koffi.decode(table[ENABLE_PROFILING], koffi.proto(POINTER, [POINTER, "str"])) as Enable;
  }

  override createSessionOptions(): SessionOptionsHandle {
    const options = super.createSessionOptions();
    if (this.#enable(options, join(this.folder, "profile")) !== null) throw new Error("EnableProfiling failed");
    return options;
  }
}

export interface Kernel {
  /** The kernel's node and program. */
  readonly node: string;
  readonly program: string;
  readonly shapes: string;
  /** Mean microseconds over the counted runs. */
  readonly time: number;
}

export interface Profile {
  readonly kernels: readonly Kernel[];
  /** Microseconds from the first kernel's start to the last one's end. */
  readonly span: number;
  /** Host microseconds for going through the nodes, and their number. */
  readonly host: number;
  readonly nodes: number;
}

interface Event {
  readonly cat: string;
  readonly name: string;
  readonly dur: number;
  readonly ts: number;
  readonly args: { readonly shapes?: string };
}

/**
 * @param work opens one session on that runtime, runs it `runs` times and releases it, nothing else
 * @param warm number of first runs that do not count
 */
export function profile(work: (runtime: Runtime) => void, runs: number, warm: number): Profile {
  const api = new ProfilingApi();
  try {
    work(new Runtime(api));
    const file = readdirSync(api.folder)[0]!;
    const events = JSON.parse(readFileSync(join(api.folder, file), "utf8")) as Event[];
    const groups = byRun(
      events.filter(({ cat }) => cat === "Api"),
      runs,
    ).slice(warm);
    const nodes = byRun(
      events.filter(({ name }) => name.endsWith("_kernel_time")),
      runs,
    ).slice(warm);
    const counted = runs - warm;
    const mean = (numbers: readonly number[]): number => numbers.reduce((sum, number) => sum + number, 0) / counted;
    const kernels = groups[0]!.map(({ name, args }, index) => {
      const [node = "", , program = ""] = name.split("&");
      // Whole microseconds, cut off.
      return {
        node,
        program,
        shapes: (args.shapes ?? "").replace(/(in|out)puts\[\d+\] = /g, "").trim(),
        time: mean(groups.map((group) => group[index]!.dur)) + 0.5,
      };
    });
    return {
      kernels,
      span: mean(groups.map((group) => group.at(-1)!.ts + group.at(-1)!.dur - group[0]!.ts)),
      host: mean(nodes.map((group) => group.at(-1)!.ts + group.at(-1)!.dur - group[0]!.ts)),
      nodes: nodes[0]!.length,
    };
  } finally {
    rmSync(api.folder, { recursive: true, force: true });
  }
}

function byRun(events: readonly Event[], runs: number): Event[][] {
  const each = events.length / runs;
  if (each === 0 || !Number.isInteger(each)) throw new Error(`${events.length} events of ${runs} runs`);
  const sorted = [...events].sort((a, b) => a.ts - b.ts);
  return Array.from({ length: runs }, (_, run) => sorted.slice(run * each, (run + 1) * each));
}

/** Prints kernels with the same program and shapes as one line, longest first. */
export function print(title: string, { kernels, span, host, nodes }: Profile, most: number): void {
  const sums = new Map<string, { count: number; time: number }>();
  for (const { program, shapes, time } of kernels) {
    const sum = sums.get(`${program} ${shapes}`) ?? { count: 0, time: 0 };
    sum.count++;
    sum.time += time;
    sums.set(`${program} ${shapes}`, sum);
  }
  const busy = kernels.reduce((total, { time }) => total + time, 0);
  console.log(
    `${title}: ${kernels.length} kernels, busy ${busy.toFixed(0)} us, span ${span.toFixed(0)} us; host ${host.toFixed(0)} us for ${nodes} nodes`,
  );
  for (const [name, { count, time }] of [...sums].sort((a, b) => b[1].time - a[1].time).slice(0, most)) {
    console.log(
      `${time.toFixed(0).padStart(8)} us ${String(count).padStart(4)} x ${(time / count).toFixed(1).padStart(7)}  ${name.slice(0, 170)}`,
    );
  }
}
