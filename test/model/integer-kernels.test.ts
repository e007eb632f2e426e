import t from "tap";
import { exactIntegerKernels } from "../../src/model/integer-kernels.ts";

t.test("the slower kernels are asked for on x86 without VNNI only", async (t) => {
  t.same(exactIntegerKernels("x64", " fpu avx2 avx512f avx512_vnni"), {});
  t.same(exactIntegerKernels("x64", " fpu avx2 avx_vnni amx_int8"), {});
  t.same(exactIntegerKernels("arm64", ""), {});
  for (const flags of [" fpu avx2 fma", " avx512f avx512_bf16", ""]) t.same(exactIntegerKernels("x64", flags), { "session.x64quantprecision": "1" });
});
