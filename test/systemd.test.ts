/** deploy/prefixd.service fits the program, and systemd understands it. */
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import t from "tap";
import { describeSettings, parseConfig } from "../src/config.ts";
import { repositoryFile } from "./support/docs-block.ts";
import { ROOT } from "./support/program.ts";
import { lacking } from "./support/requirements.ts";

const UNIT = readFileSync(repositoryFile("deploy/prefixd.service"), "utf8");
/** All values of a name; systemd adds up those of some. */
const values = (name: string): string[] =>
  [...UNIT.matchAll(new RegExp(`^${name}=(.*)$`, "gm"))].map(([, value]) => value!);

t.test("what it starts is there, and its settings are settings", async (t) => {
  const [node, script, command, ...args] = values("ExecStart")[0]!.split(" ");
  t.match([node, command], ["/usr/bin/node", "serve"], "Node itself: npm and npx would keep the signal to themselves");
  t.ok(existsSync(script!.replace("/opt/prefixd/dist", `${ROOT}/src`).replace(/\.js$/, ".ts")));
  const environment = Object.fromEntries(
    values("Environment")
      .flatMap((line) => line.split(" "))
      .map((pair) => pair.split("=") as [string, string]),
  );
  const config = parseConfig(args, environment);
  t.match(config, { store: "lmdb:/var/lib/prefixd", cacheDir: "/var/cache/prefixd" });
  t.same(
    [values("StateDirectory"), values("CacheDirectory")],
    [["prefixd"], ["prefixd"]],
    "the only folders that it may write",
  );
});

t.test("it is not killed while it drains", async (t) => {
  const seconds = (flag: string): number =>
    Number(describeSettings().find((setting) => setting.flag === flag)!.default);
  // Ten for connections on which no request comes (docs/guides/deploy.md), and some to close.
  t.ok(Number(values("TimeoutStopSec")[0]) >= seconds("--drain-delay") + seconds("--drain-timeout") + 15);
});

t.test("systemd has nothing to say against it", { skip: lacking("systemd-analyze") }, async (t) => {
  const verify = (unit: string): { status: number | null; text: string } => {
    const file = join(t.testdir({}), "prefixd.service");
    // Where Node is here.
    writeFileSync(file, unit.replace("/usr/bin/node", process.execPath));
    const { status, stderr } = spawnSync("systemd-analyze", ["verify", file], { encoding: "utf8" });
    return {
      status,
      text: stderr
        .split("\n")
        .filter((line) => line.includes("prefixd.service"))
        .join("\n"),
    };
  };
  t.same(verify(UNIT), { status: 0, text: "" });
  t.match(verify(UNIT.replace("ProtectClock", "ProtectClok")).text, /Unknown key/, "what is wrong is found");
});
