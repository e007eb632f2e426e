import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { examineCuda } from "../../src/doctor/cuda.ts";
import { examineVulkan } from "../../src/doctor/vulkan.ts";
import { defaultLibraryPath, libraryProblem } from "../../src/runtime/ort-api.ts";
import { elfNeeding } from "../support/elf.ts";
import { lacking } from "../support/requirements.ts";

t.test("what the system's loader finds", { skip: lacking("linux") }, async (t) => {
  t.equal(libraryProblem("libm.so.6"), null);
  t.equal(libraryProblem("libnowhere.so.1"), "cannot open shared object file: No such file or directory");
  t.match(libraryProblem(join(t.testdir({ "lib.so": "text" }), "lib.so")), /file too short|invalid ELF header/);
});

t.test(
  "Vulkan drivers are found as the loader finds them, and what is wrong with them is said",
  { skip: lacking("linux") },
  async (t) => {
    const manifest = (library: string): string =>
      JSON.stringify({ ICD: { library_path: library, api_version: "1.1" } });
    const dir = t.testdir({
      "driver.so": "",
      data: {
        vulkan: {
          "icd.d": {
            "a.json": manifest("../../../driver.so"),
            "b.json": manifest("./gone.so"),
            "c.json": "{",
            "d.txt": "",
          },
        },
      },
      "system.json": manifest("libvulkan_radeon.so"),
    });
    const nowhere = {
      HOME: dir,
      XDG_CONFIG_HOME: join(dir, "none"),
      XDG_CONFIG_DIRS: join(dir, "none"),
      XDG_DATA_HOME: join(dir, "none"),
    };
    const facts = (env: Record<string, string>): string =>
      examineVulkan({ ...nowhere, XDG_DATA_DIRS: join(dir, "data"), ...env }).facts.join("\n");
    const missing = (env: Record<string, string>): string => examineVulkan({ ...nowhere, ...env }).missing.join("\n");

    const folder = join(dir, "data", "vulkan", "icd.d");
    t.match(
      facts({}),
      `Vulkan drivers: ${folder}/a.json, ${folder}/b.json (its library ./gone.so is not there), ${folder}/c.json (not readable)`,
    );
    t.notMatch(
      missing({ XDG_DATA_DIRS: join(dir, "data") }),
      /There is no Vulkan driver/,
      "one that is whole is enough",
    );

    const one = { VK_DRIVER_FILES: join(dir, "system.json"), VK_ICD_FILENAMES: join(dir, "other.json") };
    t.match(facts(one), `Vulkan drivers (VK_DRIVER_FILES): ${join(dir, "system.json")}\n`);
    t.match(
      facts({ VK_ICD_FILENAMES: `${dir}/x.json:${dir}/system.json` }),
      `(VK_ICD_FILENAMES): ${dir}/x.json (not there), ${dir}/system.json\n`,
    );
    t.match(missing({ VK_ICD_FILENAMES: `${dir}/x.json` }), /VK_ICD_FILENAMES names no existing driver/);
    t.match(facts({ XDG_RUNTIME_DIR: "/run/user/7" }), "XDG_RUNTIME_DIR: /run/user/7");
    t.match(facts({}), "XDG_RUNTIME_DIR: not set");
  },
);

t.test("an ONNX Runtime without its CUDA provider", { skip: lacking("linux-x64") }, async (t) => {
  const { facts, missing } = examineCuda(join(t.testdir(), "libonnxruntime.so.1"));
  t.match(
    missing[0],
    /without libonnxruntime_providers_shared\.so and libonnxruntime_providers_cuda\.so: ONNXRUNTIME_NODE_INSTALL=cuda12 node \S+ downloads them/,
  );
  const installer = / node (\S+) downloads/.exec(examineCuda(defaultLibraryPath()).missing[0]!)?.[1];
  // Not run: it would download them.
  t.ok(installer === undefined || existsSync(installer), "the installer that it names is there");
  t.match(facts[0], "CUDA provider: not installed");

  const dir = t.testdir({
    "libonnxruntime_providers_shared.so": "",
    "libonnxruntime_providers_cuda.so": "",
    "libcudnn.so.9": "text",
  });
  const whole = examineCuda(join(dir, "libonnxruntime.so.1"));
  t.match(whole.facts[0], `CUDA provider: ${dir}`);
  t.notMatch(whole.missing.join("\n"), /onnxruntime-node was installed without/);
  t.match(
    whole.missing.join("\n"),
    /CUDA 12 libraries are missing: .*libcudnn\.so\.9.*apt install .*libcudnn9-cuda-12/,
  );
  t.match(
    whole.facts.join("\n"),
    /libcudnn\.so\.9 cannot be loaded: /,
    "one beside the provider is the one that counts",
  );
});

t.test("a provider is asked which version of CUDA it wants", { skip: lacking("linux-x64") }, async (t) => {
  const dir = t.testdir({ "libonnxruntime_providers_shared.so": "" });
  writeFileSync(
    join(dir, "libonnxruntime_providers_cuda.so"),
    elfNeeding(["libcunowhere.so.13", "libnowhere.so.1", "libcudart.so.13", "libcuda.so.1"]),
  );
  const text = examineCuda(join(dir, "libonnxruntime.so.1")).missing.join("\n");
  t.match(
    text,
    /^CUDA 13 libraries are missing: libcunowhere\.so\.13(, libcudart\.so\.13: apt install cuda-cudart-13-0 .*)?\.$/m,
  );
});
