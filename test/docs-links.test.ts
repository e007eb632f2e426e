import { existsSync, readdirSync, readFileSync, statSync } from "node:fs";
import { dirname, join, relative, sep } from "node:path";
import t from "tap";
import { repositoryFile } from "./support/docs-block.ts";

const ROOT = repositoryFile(".");
const LEFT_OUT = new Set(["node_modules", "dist", "data", "coverage"]);

function pages(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return LEFT_OUT.has(entry.name) || entry.name.startsWith(".") ? [] : pages(path);
    return entry.name.endsWith(".md") ? [path] : [];
  });
}

const withoutCode = (text: string): string => text.replace(/^```[^]*?^```/gm, "").replace(/`[^`\n]*`/g, "");

/** What GitHub makes of headings. */
function anchors(path: string): Set<string> {
  const headings =
    readFileSync(path, "utf8")
      .replace(/^```[^]*?^```/gm, "")
      .match(/^#+ .*$/gm) ?? [];
  return new Set(
    headings.map((heading) =>
      heading
        .replace(/^#+ /, "")
        .replace(/\[([^\]]*)\]\([^)]*\)/g, "$1")
        .toLowerCase()
        .replace(/[^\p{L}\p{N}\s_-]/gu, "")
        .trim()
        .replace(/\s/g, "-"),
    ),
  );
}

t.test("links between pages lead to files and headings that exist", async (t) => {
  const all = pages(ROOT);
  t.ok(all.length >= 15, `${all.length} pages`);
  const broken: string[] = [];
  const linked = new Set<string>();
  let links = 0;
  for (const page of all) {
    for (const [, target = ""] of withoutCode(readFileSync(page, "utf8")).matchAll(/\]\(([^)\s]+)\)/g)) {
      if (/^[a-z]+:/.test(target)) continue;
      links++;
      const [path = "", anchor] = target.split("#");
      const file = path === "" ? page : join(dirname(page), decodeURIComponent(path));
      const isMissing =
        !existsSync(file) ||
        (anchor !== undefined && statSync(file).isFile() && file.endsWith(".md") && !anchors(file).has(anchor));
      if (file !== page) linked.add(file);
      if (isMissing) broken.push(`${relative(ROOT, page)}: ${target}`);
    }
  }
  t.ok(links > 100, `${links} links`);
  t.same(broken, []);
  const documents = all.filter((page) => relative(ROOT, page).startsWith(`docs${sep}`));
  t.same(
    documents.filter((page) => !linked.has(page)).map((page) => relative(ROOT, page)),
    [],
    "each page of docs/ can be found from another one",
  );
});
