/** Runs the commands of docs/guides/prefixes.md as ann and bob would, on a real server. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { blocksOf, shell, workplace } from "../support/guide-page.ts";
import { ROOT } from "../support/program.ts";
import { skipFileWithout } from "../support/requirements.ts";
import { startServerProcess, temporaryFolder } from "../support/server.ts";

skipFileWithout(t, "curl");
t.setTimeout(240_000);

const ADMIN_KEY = "an-admin-key-that-is-long-enough-for-a-test";
const folder = temporaryFolder();
t.teardown(() => folder.remove());

/** The page's code blocks that begin with "```bash as USER", in order. */
const blocks = blocksOf("prefixes.md", "bash as (\\w+)").map(([, user = "", script = ""]) => ({ user, script }));

t.test("the page's commands do what it says", async (t) => {
  const server = await startServerProcess(
    ["--store", `lmdb:${folder.path}/store`, "--cache-dir", `${folder.path}/cache`],
    { PREFIXD_ADMIN_KEY: ADMIN_KEY },
  );
  t.teardown(() => server.signal("SIGKILL"));
  const admin = async (path: string, body: object): Promise<{ key: string }> => {
    const headers = { authorization: `Bearer ${ADMIN_KEY}`, "content-type": "application/json" };
    return (await (await fetch(server.url + path, { method: "POST", headers, body: JSON.stringify(body) })).json()) as {
      key: string;
    };
  };
  const keys: Record<string, string> = {};
  for (const id of ["ann", "bob"]) {
    await admin("/admin/users", { id });
    keys[id] = (await admin(`/admin/users/${id}/keys`, {})).key;
  }
  const env = (user: string): Record<string, string> => ({
    PREFIXD_URL: server.url,
    PREFIXD_KEY: keys[user]!,
    PATH: path,
  });
  const path = workplace(folder.path, "prefixes/datelong");
  t.ok(blocks.length >= 7, `${blocks.length} blocks`);
  let said = "";
  for (const { user, script } of blocks) {
    const { code, out } = await shell(folder.path, script, env(user));
    t.equal(code, 0, `${user}: ${script}${out}`);
    // curl's output has no final newline.
    said += `${out}\n`;
  }
  t.match(
    said,
    /^ID +KIND +VIRTUAL TOKENS +BYTES +UPDATED +ACCESS\ndates +PREFIX_TUNING +10 +\d+ +\S+ +owner$/m,
    "the list",
  );
  t.match(said, "dates\n  visibility   private\n  used by      bob\n  readable by  nobody else\n", "how it is shared");
  t.match(said, /^ann\/dates +PREFIX_TUNING .* use$/m, "bob finds it");
  t.match(said, '"text":" 1 August 2014"', "and uses it");
  const digests = [
    ...said.matchAll(
      /^(?:registered dates|registered copy-of-dates|pulled dates|pulled ann\/dates) \(.*digest ([0-9a-f]{64})\)/gm,
    ),
  ].map(([, digest]) => digest);
  t.equal(digests.length, 4);
  t.equal(new Set(digests).size, 1, "what is pulled and pushed again has the same digest");
  for (const file of ["adapter_config.json", "adapter_model.safetensors"]) {
    t.ok(
      readFileSync(join(folder.path, "dates", file)).equals(readFileSync(join(ROOT, "prefixes/datelong", file))),
      `${file} byte for byte`,
    );
  }
  t.ok(
    readFileSync(join(folder.path, "weights.safetensors")).equals(
      readFileSync(join(ROOT, "prefixes/datelong/adapter_model.safetensors")),
    ),
  );
  t.match(said, "deleted dates");
});
