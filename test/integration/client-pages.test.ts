/** Runs the commands and programs of docs/guides/openai.md and structured-output.md on a real server with the demo's prefixes. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, writeFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import t from "tap";
import { repositoryFile } from "../support/docs-block.ts";
import { npxFolder, ROOT } from "../support/program.ts";
import { lacking, PYTHON, skipFileWithout } from "../support/requirements.ts";
import { startServerProcess, temporaryFolder, withoutSettings } from "../support/server.ts";

skipFileWithout(t, "curl");
t.setTimeout(240_000);

const ADMIN_KEY = "an-admin-key-that-is-long-enough-for-a-test";
const folder = temporaryFolder();
t.teardown(() => folder.remove());
/** The page's own. */
const template = /^```jinja\n(.*?)^```$/ms.exec(readFileSync(repositoryFile("docs/guides/openai.md"), "utf8"))![1]!;
writeFileSync(`${folder.path}/chat.jinja`, template.trimEnd());
const server = await startServerProcess(
  [
    ...["--store", `lmdb:${folder.path}/store`, "--cache-dir", `${folder.path}/cache`, "--prefixes", "prefixes"],
    ...["--chat-template", `${folder.path}/chat.jinja`],
  ],
  { PREFIXD_ADMIN_KEY: ADMIN_KEY },
);
t.teardown(() => server.signal("SIGKILL"));
const env = {
  ...withoutSettings(),
  NODE_OPTIONS: "",
  PREFIXD_URL: server.url,
  PREFIXD_KEY: ADMIN_KEY,
  PATH: `${npxFolder(join(folder.path, "bin"))}${delimiter}${process.env["PATH"] ?? ""}`,
};

/** The code blocks of a page in these languages, in order. */
function blocksOf(page: string): { kind: string; text: string }[] {
  const text = readFileSync(repositoryFile(page), "utf8");
  return [...text.matchAll(/^```(bash|js|python)\n(.*?)^```$/gms)].map(([, kind = "", block = ""]) => ({
    kind,
    text: block,
  }));
}

async function run({ kind, text }: ReturnType<typeof blocksOf>[number], cwd: string): Promise<[number, string]> {
  const [program, args] =
    kind === "js"
      ? [process.execPath, ["--input-type=module", "-e"]]
      : kind === "python"
        ? [PYTHON, ["-c"]]
        : ["bash", ["-euo", "pipefail", "-c"]];
  const child = spawn(program, [...args, text], { cwd, env, stdio: ["ignore", "pipe", "pipe"] });
  let out = "";
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding("utf8").on("data", (part: string) => (out += part));
  const [code] = (await once(child, "close")) as [number];
  return [code, out];
}

t.test("OpenAI's clients", async (t) => {
  const blocks = blocksOf("docs/guides/openai.md");
  t.equal(blocks.length, 5);
  const said: string[] = [];
  for (const block of blocks) {
    if (block.kind === "python") continue;
    // Where the clients are installed.
    const [code, out] = await run(block, ROOT);
    t.equal(code, 0, `${block.text}${out}`);
    said.push(out);
  }
  const [curl = "", openai = "", sdk = "", chat = ""] = said;
  for (const id of ["demo", "datenorm", "intent"]) t.match(curl, `"id":"${id}","object":"model"`);
  t.match(curl, '"text":" book flight"');
  t.equal(openai, " 2024-08-14");
  t.equal(sdk, "true\n");
  t.match(chat, '"content":" 2024-08-14"');
  await t.test("Python's openai", { skip: lacking("python-openai") }, async (t) => {
    const block = blocks.find(({ kind }) => kind === "python")!;
    t.same(await run(block, ROOT), [0, " book flight\n"]);
  });
});

t.test("structured output", async (t) => {
  const blocks = blocksOf("docs/guides/structured-output.md");
  t.equal(blocks.length, 4);
  const said: string[] = [];
  for (const block of blocks) {
    const [code, out] = await run(block, folder.path);
    t.equal(code, 0, `${block.text}${out}`);
    said.push(out);
  }
  const [choice, curl = "", date, json = ""] = said;
  t.equal(choice, "report lost card\n");
  t.match(JSON.parse(curl), { choices: [{ text: "report lost card", finish_reason: "stop" }] });
  t.equal(date, "2006-05-06\n");
  t.match(JSON.parse(json), {
    intent: /^(book flight|book hotel|weather)$/,
    date: /^\d{4}-\d{2}-\d{2}$/,
    persons: Number,
  });
});
