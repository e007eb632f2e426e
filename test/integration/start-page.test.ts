/** Runs the commands of docs/guides/start.md and train.md: from an adapter, and from a file of examples, to an answer. */
import t from "tap";
import { effort } from "../support/effort.ts";
import { blocksOf, shell, workplace } from "../support/guide-page.ts";
import { skipFileWithout } from "../support/requirements.ts";
import { startServerProcess, temporaryFolder } from "../support/server.ts";

skipFileWithout(t, "curl");
t.setTimeout(600_000);

const folder = temporaryFolder();
t.teardown(() => folder.remove());
const PATH = workplace(folder.path, "prefixes/datelong", "examples");
// The server that `npm start` starts, at another port.
const server = await startServerProcess([
  ...["--store", `lmdb:${folder.path}/store`, "--cache-dir", `${folder.path}/cache`],
  ...["--prefixes", "prefixes"],
]);
t.teardown(() => server.signal("SIGKILL"));
const env = { PATH, PREFIXD_URL: server.url, PREFIXD_CACHE_DIR: `${folder.path}/cache` };

/** What the page's blocks with commands for a running server print. */
async function follow(page: string, change: (script: string) => string = (script) => script): Promise<string> {
  let said = "";
  for (const [, block = ""] of blocksOf(page, "")) {
    if (!/^(curl|npx prefixd (generate|push|train --data)) /m.test(block)) continue;
    const script = change(block)
      .replace(/^npm ci.*\n/gm, "")
      .replaceAll("127.0.0.1:8080", new URL(server.url).host);
    const { code, out } = await shell(folder.path, script, env);
    t.equal(code, 0, `${script}${out}`);
    said += `${out}\n`;
  }
  return said;
}

t.test("from PEFT's folder to an answer", async (t) => {
  const said = await follow("start.md");
  t.match(said, '"text":" 2024-08-14"', "the demo by curl");
  t.match(said, / book flight/, "and at the terminal");
  t.match(said, /^registered mine /m);
  t.match(said, '"text":" 1 August 2014"', "one's own prefix");
});

t.test("from a file of examples to an answer", async (t) => {
  // What a whole training is worth is measured: bench/training-defaults.ts.
  const short = `$1 --steps ${effort({ short: 1, long: 4 })}`;
  const said = await follow("train.md", (script) => script.replace(/(prefixd train --data \S+)/g, short));
  t.match(said, /^registered dates /m);
  t.match(said, /"text":"/);
});
