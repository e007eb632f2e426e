import { availableParallelism } from "node:os";
import t from "tap";
import { cgroupPath, cpuQuota, readCpuQuota, threadsWithin } from "../../src/runtime/cpu-quota.ts";

t.test("processor quotas as Linux reports them in a container", async (t) => {
  t.equal(cgroupPath("4:memory:/x\n0::/system.slice/prefixd.service\n"), "/system.slice/prefixd.service");
  t.equal(cgroupPath(""), "/");
  t.equal(cpuQuota("150000 100000\n"), 1.5);
  t.equal(cpuQuota("max 100000\n"), null);
  t.equal(cpuQuota(""), null);
  const quota = readCpuQuota();
  t.ok(quota === null || quota > 0, "this process's");
});

t.test("threads of the model under a bound on the processor", async (t) => {
  t.equal(threadsWithin(null, 8), 0, "no bound: as many as ONNX Runtime thinks right");
  t.equal(threadsWithin(8, 8), 0);
  t.equal(threadsWithin(3.9, 8), 3);
  t.equal(threadsWithin(0.5, 8), 1);
  t.equal(threadsWithin(availableParallelism() / 2), Math.max(1, Math.floor(availableParallelism() / 2)));
});
