/** Says what int8 comes to on the processor that it runs on: the arithmetic chosen, and each one's proof. Argument: a folder for the checks. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { exactIntegers, integerCheck, integerCheckPath, proveIntegers } from "../../../src/model/integer-kernels.ts";
import { Runtime } from "../../../src/runtime/session.ts";

const model = join(process.argv[2]!, "model.onnx");
const proof = async (arithmetic: "int8-u8s8" | "int8-u8u8"): Promise<string> => {
  writeFileSync(integerCheckPath(model), integerCheck(arithmetic));
  using runtime = new Runtime();
  return await proveIntegers(runtime, model, { threads: 1 }).then(
    () => "exact",
    (error: Error) => error.message,
  );
};
console.log(
  JSON.stringify({
    chosen: await exactIntegers(),
    "int8-u8s8": await proof("int8-u8s8"),
    "int8-u8u8": await proof("int8-u8u8"),
  }),
);
