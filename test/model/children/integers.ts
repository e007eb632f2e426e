/** Prints what int8 comes to on the processor that it runs on: the arithmetic chosen, and each one's inexact sum. */
import { exactIntegers, inexactSum } from "../../../src/model/integer-kernels.ts";
import { Runtime } from "../../../src/runtime/session.ts";

using runtime = new Runtime();
console.log(
  JSON.stringify({
    chosen: await exactIntegers(),
    "int8-u8s8": await inexactSum(runtime, "int8-u8s8"),
    "int8-u8u8": await inexactSum(runtime, "int8-u8u8"),
  }),
);
