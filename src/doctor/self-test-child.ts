/** Entry point of the process that tries a device for self-test-process.ts. Arguments: device, precision, folder. */
import { OrtError } from "../runtime/ort-api.ts";
import { selfTest, type SelfTestOptions } from "./self-test.ts";

process.once("disconnect", () => process.exit(1));
const [device, precision, folder] = process.argv.slice(2) as [
  SelfTestOptions["device"],
  SelfTestOptions["precision"],
  string,
];
const answer = await selfTest({ device, precision, folder }).catch((error: unknown) => ({ problem: problemOf(error) }));
process.send!(answer, () => process.exit(0));

function problemOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  if (error instanceof OrtError) return error.reason;
  return error.cause instanceof OrtError ? `${error.message} ${error.cause.reason}` : error.message;
}
