import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

/** A file of the repository, by its path from the root. */
export const repositoryFile = (path: string): string => fileURLToPath(new URL(`../../${path}`, import.meta.url));

/**
 * A page's generated block, between `<!-- name: begin -->` and `<!-- name: end -->`. With UPDATE_DOCS=1 in the
 * environment it is first replaced by `fresh`.
 */
export function docsBlock(path: string, name: string, fresh: string): string {
  const file = repositoryFile(path);
  const text = readFileSync(file, "utf8");
  const [begin, end] = [`<!-- ${name}: begin -->\n`, `<!-- ${name}: end -->`];
  const from = text.indexOf(begin) + begin.length;
  const to = text.indexOf(end);
  if (from < begin.length || to < from) throw new Error(`${path} has no block ${name}`);
  if (process.env["UPDATE_DOCS"] === "1" && text.slice(from, to) !== fresh) {
    writeFileSync(file, text.slice(0, from) + fresh + text.slice(to));
    return fresh;
  }
  return text.slice(from, to);
}

/** A Markdown table. */
export function markdownTable(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string =>
    `| ${cells.map((cell) => cell.replaceAll("|", "\\|")).join(" | ")} |\n`;
  return line(head) + line(head.map(() => "---")) + rows.map(line).join("");
}
