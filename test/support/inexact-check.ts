/** Simulates a processor whose kernels do not multiply 8-bit integers exactly. */
import { DataType, OnnxGraph } from "../../src/model/onnx-writer.ts";
import { Runtime, type Session, type SessionOptions } from "../../src/runtime/session.ts";

/** From now on every check of src/model/integer-kernels.ts fails, until the function returned is called. */
export function multiplyInexactly(): () => void {
  // eslint-disable-next-line @typescript-eslint/unbound-method -- called with its object below
  const { session } = Runtime.prototype;
  // On the CPU, only checks are given as bytes.
  Runtime.prototype.session = function (this: Runtime, model: string | Uint8Array, options: SessionOptions): Session {
    return session.call(this, typeof model === "string" ? model : inexactCheck(), options);
  };
  return () => void (Runtime.prototype.session = session);
}

/** The check's inputs and outputs, but every sum is a third of its row's. */
function inexactCheck(): Uint8Array {
  const [inputs, outputs] = [512, 48];
  const graph = new OnnxGraph("inexact", "");
  graph.input("x", DataType.float, ["rows", inputs]);
  graph.input("asked", DataType.int32, [1]);
  graph.constant(
    "weights",
    DataType.float,
    [inputs, outputs],
    new Float32Array(inputs * outputs).fill((127 * 127) / 3),
  );
  for (const output of ["plain", "inner"]) {
    graph.node("MatMul", ["x", "weights"], [output]);
    graph.output(output, DataType.float, ["rows", outputs]);
  }
  graph.node("Identity", ["asked"], ["unused"]);
  return graph.encode();
}
