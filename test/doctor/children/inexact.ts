/** The self-test on a processor whose kernels do not multiply 8-bit integers exactly. */
import { Runtime, type Session, type SessionOptions } from "../../../src/runtime/session.ts";
import { inexactCheck } from "../../support/inexact-check.ts";

// eslint-disable-next-line @typescript-eslint/unbound-method -- called with its object below
const { session } = Runtime.prototype;
Runtime.prototype.session = function (this: Runtime, model: string | Uint8Array, options: SessionOptions): Session {
  return session.call(
    this,
    typeof model === "string" && model.endsWith("integers.onnx") ? inexactCheck() : model,
    options,
  );
};
await import("../../../src/doctor/self-test-child.ts");
