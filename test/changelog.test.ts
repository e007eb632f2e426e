import { readFileSync } from "node:fs";
import t from "tap";
import { VERSION } from "../src/version.ts";
import { repositoryFile } from "./support/docs-block.ts";

const CHANGELOG = readFileSync(repositoryFile("CHANGELOG.md"), "utf8");

t.test("the newest release of the changelog is the package's version, in both of npm's files", async (t) => {
  const [unreleased, newest] = [...CHANGELOG.matchAll(/^## (.*)$/gm)].map(([, heading]) => heading!);
  t.equal(unreleased, "[Unreleased]");
  t.match(newest, /^\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d$/);
  t.equal(newest!.slice(1, newest!.indexOf("]")), VERSION);
  const lock = JSON.parse(readFileSync(repositoryFile("package-lock.json"), "utf8")) as {
    version: string;
    packages: { "": { version: string } };
  };
  t.same([lock.version, lock.packages[""].version], [VERSION, VERSION]);
});

t.test("changes stand under the headings of Keep a Changelog", async (t) => {
  const kinds = [...CHANGELOG.matchAll(/^### (.*)$/gm)].map(([, kind]) => kind!);
  t.ok(kinds.length > 0);
  const known = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"];
  t.same(
    kinds.filter((kind) => !known.includes(kind)),
    [],
  );
});
