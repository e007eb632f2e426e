/** The self-test on a processor whose kernels do not multiply 8-bit integers exactly. */
import { multiplyInexactly } from "../../support/inexact-check.ts";

multiplyInexactly();
await import("../../../src/doctor/self-test-child.ts");
