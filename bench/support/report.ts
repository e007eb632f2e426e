/** Figures go into docs/reference/benchmarks.md between markers, one section a benchmark, so that a rerun replaces exactly its own. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { cpus, totalmem } from "node:os";
import { examineMachine } from "../../src/doctor/machine.ts";
import { exactIntegers } from "../../src/model/integer-kernels.ts";

const FILE = new URL("../../docs/reference/benchmarks.md", import.meta.url);
const PLOTS = new URL("../../docs/reference/plots/", import.meta.url);

/** Replaces the text between `<!-- name -->` and `<!-- /name -->`; both markers must be there. */
export function writeSection(name: string, lines: readonly string[], file = FILE): void {
  const text = readFileSync(file, "utf8");
  const [open, close] = [`<!-- ${name} -->`, `<!-- /${name} -->`];
  const [from, to] = [text.indexOf(open), text.indexOf(close)];
  if (from < 0 || to < from) throw new Error(`${file.pathname} has no section ${name}`);
  writeFileSync(file, `${text.slice(0, from + open.length)}\n${lines.join("\n")}\n${text.slice(to)}`);
}

/** Writes docs/reference/plots/NAME.svg. */
export function writePlot(name: string, svg: string): void {
  mkdirSync(PLOTS, { recursive: true });
  writeFileSync(new URL(`${name}.svg`, PLOTS), svg);
}

/** The lines written by `writeSection`. */
export function readSection(name: string): readonly string[] {
  const text = readFileSync(FILE, "utf8");
  const [open, close] = [`<!-- ${name} -->\n`, `<!-- /${name} -->`];
  const [from, to] = [text.indexOf(open), text.indexOf(close)];
  return from < 0 || to < from
    ? []
    : text
        .slice(from + open.length, to)
        .trimEnd()
        .split("\n");
}

/** The cells of a section's table, without its header. */
export function rowsOf(lines: readonly string[]): string[][] {
  return lines
    .filter((line) => line.startsWith("| "))
    .slice(2)
    .map((line) => line.slice(2, -2).split(" | "));
}

/** The machine measured: processor, cores, memory, Node. */
export function machine(): string {
  const all = cpus();
  const model = all[0]?.model
    .replace(/\((R|TM)\)/g, "")
    .replace(/\s+/g, " ")
    .trim();
  return `${all.length} cores of ${model}, ${Math.round(totalmem() / 2 ** 30)} GiB, Node ${process.versions.node}, ${new Date().toISOString().slice(0, 10)}`;
}

/** The same for int8 figures, whose kernels depend more on the processor. */
export async function machineOfInt8(): Promise<string> {
  const extensions = examineMachine().cpu.vector_extensions ?? [];
  return `${machine()}; int8 as ${await exactIntegers()} on ${extensions.filter((name) => /avx2|avx512f|vnni|int8|asimddp|i8mm/.test(name)).join(", ") || "unknown extensions"}`;
}

export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

export function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))]!;
}

export function table(head: readonly string[], rows: readonly (readonly (string | number)[])[]): string[] {
  return [
    `| ${head.join(" | ")} |`,
    `| ${head.map(() => "---").join(" | ")} |`,
    ...rows.map((row) => `| ${row.join(" | ")} |`),
  ];
}
