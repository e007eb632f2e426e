import { spawnSync } from "node:child_process";
import { chmodSync } from "node:fs";
import { delimiter, join } from "node:path";
import t from "tap";
import { repositoryFile } from "./docs-block.ts";
import { has, lacking, reasonFor, REQUIREMENTS, type Requirement } from "./requirements.ts";
import { byReason, NOTHING_ASSERTED, skipsOf, unlisted } from "./skips.ts";

const REDIS = "needs redis-server: apt-get install redis-server";
const HAPROXY = "needs haproxy: apt-get install haproxy";
const IPV6 = "needs the address ::1: sysctl net.ipv6.conf.lo.disable_ipv6=0";

/** Runs `call` as on a machine without these. */
function without<T>(names: string, call: () => T): T {
  process.env["PREFIXD_TEST_WITHOUT"] = names;
  try {
    return call();
  } finally {
    delete process.env["PREFIXD_TEST_WITHOUT"];
  }
}

t.test("what a machine lacks is a reason to skip that says how to get it", async (t) => {
  delete process.env["PREFIXD_TEST_WITHOUT"];
  t.equal(lacking(), false);
  t.equal(
    without("redis-server", () => lacking("redis-server")),
    REDIS,
  );
  t.equal(
    without("redis-server,haproxy", () => lacking("haproxy", "linux", "redis-server")),
    process.platform === "linux" ? `${HAPROXY}; ${REDIS}` : `${HAPROXY}; ${reasonFor("linux")}; ${REDIS}`,
  );
  t.equal(has("linux"), process.platform === "linux");
  t.throws(() => without("redis", () => has("linux")), /PREFIXD_TEST_WITHOUT: redis is none of redis-server, /);
});

t.test("every requirement can be told from a reason", async (t) => {
  const reasons = (Object.keys(REQUIREMENTS) as (keyof typeof REQUIREMENTS)[]).map(reasonFor);
  t.equal(new Set(reasons).size, reasons.length);
  t.same(
    reasons.filter((reason) => reason.includes("; ") || reason.includes("#")),
    [],
    "what separates reasons, and TAP's fields, is in none",
  );
  for (const { mayLackInCi } of Object.values<Requirement>(REQUIREMENTS)) t.not(mayLackInCi, "");
});

t.test("a file all of whose tests need something", async (t) => {
  const child = (env: Record<string, string>): { status: number | null; stdout: string } => {
    const script = `import t from "tap"; import { skipFileWithout } from "./requirements.ts"; skipFileWithout(t, "redis-server"); t.test("a", async (t) => t.fail("runs")); t.test("b", async (t) => t.pass());`;
    return spawnSync(process.execPath, ["--import=tsx", "--input-type=module", "-e", script], {
      cwd: import.meta.dirname,
      encoding: "utf8",
      env: { ...process.env, ...env },
    });
  };
  const skipped = child({ PREFIXD_TEST_WITHOUT: "redis-server" });
  t.equal(skipped.status, 0);
  t.same(skipsOf("test/a.test.ts", skipped.stdout), [{ test: "test/a.test.ts", reason: REDIS }]);
});

const TAP = `TAP version 14
# Subtest: outer
    ok 1 - of \\#2 # SKIP ${REDIS}
    # Subtest: inner
        ok 1 - a
        ok 2 - b # SKIP ${REDIS}; ${HAPROXY}
        not ok 3 - c # TODO later
        1..3
    ok 2 - inner # time=1ms
    # Subtest: says why
        1..0 # ${IPV6}
    ok 3 - says why # SKIP ${IPV6}
    # Subtest: returns at once
        # a comment
        1..0
    ok 4 - returns at once # time=1ms
    1..4
ok 1 - outer # time=2ms
ok 2 - no reason # SKIP
1..2
`;
const SKIPS = [
  { test: "f > outer > of #2", reason: REDIS },
  { test: "f > outer > inner > b", reason: `${REDIS}; ${HAPROXY}` },
  { test: "f > outer > inner > c", reason: "to do: later" },
  { test: "f > outer > says why", reason: IPV6 },
  { test: "f > outer > returns at once", reason: NOTHING_ASSERTED },
  { test: "f > no reason", reason: "no reason given" },
];

t.test("skips are found in TAP wherever they are, and so are tests that only seem to pass", async (t) => {
  t.same(skipsOf("f", TAP), SKIPS);
  t.same(skipsOf("f", `TAP version 14\n1..0 # ${REDIS}\n`), [{ test: "f", reason: REDIS }]);
  t.same(skipsOf("f", "TAP version 14\n1..0\n"), [{ test: "f", reason: NOTHING_ASSERTED }]);
  t.same(skipsOf("f", "TAP version 14\nok 1 - a\n1..1\n"), []);
  t.same([...byReason(SKIPS)].slice(0, 2), [
    [REDIS, ["f > outer > of #2", "f > outer > inner > b"]],
    [HAPROXY, ["f > outer > inner > b"]],
  ]);
});

t.test("CI may skip what is on the list, with all that it lacks, and nothing else", async (t) => {
  t.same(
    unlisted(SKIPS),
    SKIPS.filter(({ reason }) => reason !== IPV6),
  );
  t.same(unlisted([{ test: "f", reason: `${IPV6}; ${REDIS}` }]).length, 1);
  t.same(unlisted([{ test: "f", reason: "needs a made-up thing: nowhere" }]).length, 1);
});

t.test(
  "npm test: arguments and exit code are tap's, skips come last, and CI fails by one that is not listed",
  async (t) => {
    // In tap's place a script that writes what a file has written, and says what it was asked.
    const dir = t.testdir({
      tap: `#!/bin/sh\nmkdir "$2/test" && printf '%s' "$RESULT" > "$2/test/a.test.ts.tap"\nshift 2; echo "asked: $*"; exit "$CODE"\n`,
    });
    // Newer Nodes take TypeScript by themselves.
    const withoutFlags = (line: string): string => line.replaceAll(/--node-arg=\S+ /g, "");
    chmodSync(join(dir, "tap"), 0o755);
    const run = (skip: string, { code = 0, complete = "" } = {}): { status: number | null; lines: string[] } => {
      const env = {
        ...process.env,
        PATH: `${dir}${delimiter}${process.env["PATH"]}`,
        RESULT: `TAP version 14\nok 1 - b${skip}\n1..1\n`,
        CODE: String(code),
        PREFIXD_TEST_COMPLETE: complete,
      };
      const { status, stdout } = spawnSync(
        process.execPath,
        ["--import=tsx", repositoryFile("test/run.ts"), "test/a.test.ts", "--bail"],
        { encoding: "utf8", env },
      );
      return { status, lines: stdout.trimEnd().split("\n").map(withoutFlags) };
    };
    const asked = "asked: test/a.test.ts --bail";
    const list = (reason: string): string[] => [
      asked,
      "# Skipped on this machine (1):",
      `#   ${reason}`,
      "#     test/a.test.ts > b",
    ];
    t.same(run(""), { status: 0, lines: [asked] });
    t.same(run(` # SKIP ${REDIS}`), { status: 0, lines: list(REDIS) });
    t.same(run(` # SKIP ${REDIS}`, { code: 3 }), { status: 3, lines: list(REDIS) });
    t.same(run(` # SKIP ${IPV6}`, { complete: "1" }), { status: 0, lines: list(IPV6) });
    const failed = run(` # SKIP ${REDIS}`, { complete: "1" });
    t.equal(failed.status, 1);
    t.same(failed.lines.slice(0, 4), list(REDIS));
    t.match(failed.lines.slice(4), [/^# Must not be skipped here \(1\): /, "#   test/a.test.ts > b"]);
  },
);
