import t from "tap";
import {
  examineMachine,
  vectorExtensions,
  warningsOf,
  type Bounds,
  type MachineReport,
} from "../../src/doctor/machine.ts";

t.test("this machine", async (t) => {
  const { cpu, memory, node } = examineMachine();
  t.equal(node, process.version);
  t.ok(cpu.cores >= 1 && cpu.model !== "");
  t.ok(memory.total > 1e8 && memory.available <= memory.total && (memory.limit ?? 0) <= memory.total);
});

t.test("what Linux says of the processor", async (t) => {
  t.same(vectorExtensions("processor\t: 0\nflags\t\t: fpu sse avx avx2 fma avx512fx\n\nflags\t\t: amx_int8\n"), [
    "avx",
    "avx2",
    "fma",
  ]);
  t.same(vectorExtensions("Features\t: fp asimd bf16 crc32\n"), ["asimd", "bf16"]);
  t.same(vectorExtensions("processor : 0\n"), []);
});

t.test("warnings", async (t) => {
  const machine: MachineReport = {
    node: "v20",
    platform: "linux x64 6.1",
    cpu: { model: "a CPU", cores: 8, quota: null, vector_extensions: ["avx", "avx2"] },
    memory: { total: 64e9, available: 60e9, limit: null },
  };
  const bounds: Bounds = {
    machine,
    processLimits:
      "Max open files            1048576              1048576              files\nMax address space         unlimited            unlimited            bytes\n",
    slots: 32,
    hostMemory: true,
  };
  const warned = (change: Partial<Bounds>): string[] => warningsOf({ ...bounds, ...change });
  t.same(warned({}), []);
  t.same(warned({ processLimits: "" }), [], "a system without such a file");

  const limited = { ...machine, memory: { ...machine.memory, limit: 2e9 } };
  t.match(warned({ machine: limited }), [
    /^The container may use 2\.0 GB of memory; GPT-2 small with --max-batch 32 and full contexts takes about 3\.3 GB/,
  ]);
  t.same(warned({ machine: limited, slots: 8 }), []);
  t.same(warned({ machine: limited, hostMemory: false }), [], "a device has memory of its own");
  t.match(warned({ machine: { ...machine, memory: { total: 1e9, available: 5e8, limit: null } } }), [
    /^This machine has 1\.0 GB/,
  ]);

  t.match(warned({ machine: { ...machine, cpu: { ...machine.cpu, vector_extensions: ["avx"] } } }), [/no AVX2/]);
  t.same(
    warned({
      machine: { ...machine, platform: "linux arm64 6.1", cpu: { ...machine.cpu, vector_extensions: ["asimd"] } },
    }),
    [],
  );
  t.match(warned({ processLimits: "Max open files            256                  4096                 files\n" }), [
    /may open 256 files/,
  ]);
  t.match(warned({ processLimits: "Max address space         4000000000           unlimited            bytes\n" }), [
    /Address space is limited to 4\.0 GB/,
  ]);
});
