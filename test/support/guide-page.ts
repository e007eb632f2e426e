/** Runs the commands of a page of docs/guides as a reader would, in a folder in which `npx prefixd` is this checkout. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, readFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { repositoryFile } from "./docs-block.ts";
import { npxFolder, ROOT } from "./program.ts";
import { withoutSettings } from "./server.ts";

/** The code blocks of a page whose first line is a fence with `mark`, a regular expression, in order. */
export const blocksOf = (page: string, mark: string): RegExpMatchArray[] => [
  ...readFileSync(repositoryFile(`docs/guides/${page}`), "utf8").matchAll(
    new RegExp(`^\`\`\`${mark}\\n(.*?)^\`\`\`$`, "gms"),
  ),
];

/** Makes `folder` a place to work in, with copies of these files and folders of the checkout; returns its PATH. */
export function workplace(folder: string, ...copies: readonly string[]): string {
  const bin = npxFolder(join(folder, "bin"));
  for (const name of copies) cpSync(join(ROOT, name), join(folder, name), { recursive: true });
  return `${bin}${delimiter}${process.env["PATH"] ?? ""}`;
}

/** What a script of Bash printed, to standard output and error, and its exit code. */
export async function shell(
  folder: string,
  script: string,
  env: Readonly<Record<string, string>>,
): Promise<{ code: number; out: string }> {
  const child = spawn("bash", ["-euo", "pipefail", "-c", script], {
    cwd: folder,
    env: { ...withoutSettings(), ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let out = "";
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding("utf8").on("data", (text: string) => (out += text));
  const [code] = (await once(child, "close")) as [number];
  return { code, out };
}
