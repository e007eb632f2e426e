/** Runs the commands and programs of docs/guides/openai.md on a real server with the demo's prefixes. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import t from "tap";
import { repositoryFile } from "../support/docs-block.ts";
import { ROOT } from "../support/program.ts";
import { skipFileWithout } from "../support/requirements.ts";
import { startServerProcess, temporaryFolder } from "../support/server.ts";

skipFileWithout(t, "curl");
t.setTimeout(240_000);

const ADMIN_KEY = "an-admin-key-that-is-long-enough-for-a-test";
const page = readFileSync(repositoryFile("docs/guides/openai.md"), "utf8");
const blocks = [...page.matchAll(/^```(bash|js)\n(.*?)^```$/gms)].map(([, kind = "", text = ""]) => ({ kind, text }));

async function run({ kind, text }: (typeof blocks)[number], env: Record<string, string>): Promise<[number, string]> {
  const [program, args] =
    kind === "js" ? [process.execPath, ["--input-type=module", "-e"]] : ["bash", ["-euo", "pipefail", "-c"]];
  const child = spawn(program, [...args, text], {
    // Where the clients are installed.
    cwd: ROOT,
    env: { ...process.env, NODE_OPTIONS: "", ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let out = "";
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding("utf8").on("data", (part: string) => (out += part));
  const [code] = (await once(child, "close")) as [number];
  return [code, out];
}

t.test("the page's commands and programs do what it says", async (t) => {
  const folder = temporaryFolder();
  t.teardown(() => folder.remove());
  const server = await startServerProcess(
    ["--store", `lmdb:${folder.path}/store`, "--cache-dir", `${folder.path}/cache`, "--prefixes", "prefixes"],
    { PREFIXD_ADMIN_KEY: ADMIN_KEY },
  );
  t.teardown(() => server.signal("SIGKILL"));
  t.equal(blocks.length, 3);
  const said: string[] = [];
  for (const block of blocks) {
    const [code, out] = await run(block, { PREFIXD_URL: server.url, PREFIXD_KEY: ADMIN_KEY });
    t.equal(code, 0, `${block.text}${out}`);
    said.push(out);
  }
  const [curl = "", openai = "", sdk = ""] = said;
  for (const id of ["demo", "datenorm", "intent"]) t.match(curl, `"id":"${id}","object":"model"`);
  t.match(curl, '"text":" book flight"');
  t.equal(openai, " 2024-08-14");
  t.equal(sdk, "true\n");
});
