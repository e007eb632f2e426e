/** The report as text for operators. */
import { counted } from "../counted.ts";
import type { DeviceReport, Report } from "./examine.ts";
import { gigabytes } from "./machine.ts";
import type { SelfTestReport } from "./self-test-process.ts";

export function reportText(report: Report): string {
  const { onnxruntime, machine, warnings } = report;
  const { cpu, memory } = machine;
  return [
    `prefixd ${report.prefixd}, Node ${machine.node}, ${machine.platform}`,
    onnxruntime.problem === null
      ? `ONNX Runtime ${onnxruntime.version}: ${onnxruntime.library}`
      : `ONNX Runtime: ${onnxruntime.problem}`,
    `CPU: ${cpu.model}, ${cpu.cores} cores${cpu.quota === null ? "" : `, of which the container may use ${cpu.quota}`}`,
    ...(cpu.vector_extensions === null ? [] : [`     ${cpu.vector_extensions.join(" ") || "no vector extensions"}`]),
    `Memory: ${gigabytes(memory.total)}, ${gigabytes(memory.available)} available${memory.limit === null ? "" : `, limit of the container ${gigabytes(memory.limit)}`}`,
    "",
    ...Object.entries(report.devices).flatMap(([kind, device]) => [...deviceLines(kind, device), ""]),
    workersLine(report),
    "",
    ...warnings.map((warning) => `Warning: ${warning}`),
    ...(warnings.length === 0 ? [] : [""]),
    `--device ${report.device} --precision ${report.precision} ${report.ok ? "works" : "does not work"} here.`,
    "",
  ].join("\n");
}

function workersLine({ http_workers: { problem, processors } }: Report): string {
  if (problem !== null) return `HTTP workers: not usable. ${problem}`;
  const left =
    processors === 0 ? "no processor is" : `${counted(processors, "processor")} ${processors === 1 ? "is" : "are"}`;
  return `HTTP workers: usable, one was tried; ${left} left for them beside the server and the model`;
}

function deviceLines(kind: string, { usable, facts, missing, self_tests }: DeviceReport): string[] {
  const why = missing[0] ?? self_tests[0]?.problem ?? "";
  return [
    `${kind}: ${usable ? "usable" : `not usable. ${why}`}`,
    // The line above already shows the first one, unless the device works anyway.
    ...missing.slice(usable ? 0 : 1).map((sentence) => `  ${sentence}`),
    ...facts.map((fact) => `  ${fact}`),
    ...self_tests.map((test) => `  Self-test ${test.precision}: ${outcome(test)}`),
  ];
}

function outcome({
  passed,
  problem,
  requests,
  largest_logprob_difference: difference,
  allowed_difference: allowed,
  seconds,
}: SelfTestReport): string {
  if (!passed) return `failed after ${seconds} s: ${problem}`;
  return `passed in ${seconds} s: ${counted(requests!, "request")} at once, tokens as PEFT's, largest logprob difference ${difference!.toExponential(1)} (allowed ${allowed})`;
}
