/** Every flag that a command's help prints works as it prints it, and what does not is one line. Flags and values are taken from the help. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import t, { type Test } from "tap";
import { ConfigError } from "../../src/errors.ts";

type Command = (args: readonly string[]) => Promise<void>;
const commands: Readonly<Record<string, Command>> = {
  serve: (await import("../../src/cli/serve.ts")).serve,
  build: (await import("../../src/cli/build.ts")).build,
  doctor: (await import("../../src/cli/doctor.ts")).doctor,
  load: (await import("../../src/cli/load.ts")).load,
  push: (await import("../../src/cli/push.ts")).push,
  users: (await import("../../src/cli/users.ts")).users,
};

for (const name of Object.keys(process.env)) if (name.startsWith("PREFIXD_")) delete process.env[name];
const keyFile = join(t.testdir(), "key");
writeFileSync(keyFile, "0123456789abcdef0123456789abcdef\n");

/** What a placeholder of a help text stands for. */
const SAMPLES: Readonly<Record<string, readonly string[]>> = {
  N: ["3"],
  R: ["2.5"],
  X: ["0.5"],
  PART: ["0.5"],
  SECONDS: ["2"],
  MICROSECONDS: ["10"],
  MS: ["5"],
  SIZE: ["1MiB"],
  TIME: ["2030-01-01T00:00:00Z"],
  ADDR: ["::1"],
  "ADDR,...": ["10.0.0.0/8,::1"],
  "ORIGIN,...": ["https://a.example,http://localhost:3000"],
  DAY: ["2026-01-31"],
  ROW: ["2026-01-31/=intent"],
  DIR: ["./nowhere"],
  "DIR|ORG/NAME": ["./nowhere", "org/name"],
  FILE: [keyFile],
  NAME: ["name"],
  "NAME|FILE": ["smoke"],
  USER: ["ann"],
  "L,H,D": ["1,1,1"],
  "config.json": ["models/demo/config.json"],
  "NAME=N": ["max_running=3"],
  "NAME=N|none": ["max_running=3", "max_running=none"],
  LEVEL: ["info", "silent"],
  URL: ["lmdb:./nowhere", "redis://127.0.0.1:1/2"],
  "http://127.0.0.1:8080": ["http://127.0.0.1:9"],
};
/** What a precision runs on. */
const DEVICES: Readonly<Record<string, string>> = { auto: "cpu", fp32: "cpu", int8: "cpu", fp16: "cuda" };

interface Flag {
  readonly flag: string;
  /** None: it takes no value. */
  readonly values: readonly string[];
}

/** `--flag`, `--flag PLACEHOLDER` or `--flag this|that` anywhere in the text, each once. */
function flagsIn(text: string): Flag[] {
  const flags = new Map<string, Flag>();
  // How flags are written is told by examples.
  for (const [, flag, placeholder] of text
    .replace(/^(One frozen GPT-2|--flag VALUE) .*$/gm, "")
    .matchAll(/(?<![\w-])(--[a-z][a-z-]*)(?: ((?:http:\/\/|[A-Z]|[a-z\d]+\||config\.)[\w|=,./:-]*))?/g)) {
    const values =
      placeholder === undefined
        ? []
        : ((flag!.startsWith("--structured-") && placeholder === "N" ? ["1000"] : SAMPLES[placeholder]) ??
          (/^[a-z\d]+(\|[a-z\d]+)+$/.test(placeholder) ? placeholder.split("|") : null));
    if (values === null) throw new Error(`what is ${placeholder} of ${flag}?`);
    if (flag !== "--help" && !flags.has(flag!)) flags.set(flag!, { flag: flag!, values });
  }
  return [...flags.values()];
}

async function helpOf(t: Test, command: Command): Promise<string> {
  const written = t.capture(process.stdout, "write", () => true);
  await command(["--help"]);
  written.restore();
  return written.args().flat().join("");
}

/** What the command's one line says of the arguments; "" when it took them and went on to do its work, or to fail at that. */
async function complaint(t: Test, command: Command, args: readonly string[], accepted: RegExp): Promise<string> {
  const captured = [t.capture(process.stdout, "write", () => true), t.capture(process.stderr, "write", () => true)];
  try {
    await command(args);
    return "";
  } catch (error) {
    const { message } = error as Error;
    return accepted.test(message) ? "" : error instanceof ConfigError ? message : `${String(error)} is no ConfigError`;
  } finally {
    for (const capture of captured) capture.restore();
    // A load test that reaches no server has failed.
    process.exitCode = 0;
  }
}

interface Trial {
  readonly name: string;
  readonly command: Command;
  readonly flags: readonly Flag[];
  /** Before the flag, and after all: what lets the command get as far as its work, which fails with what `accepted` matches. */
  readonly before?: readonly string[];
  readonly after?: readonly string[];
  readonly accepted?: RegExp;
}

async function tryAll(
  t: Test,
  { name, command, flags, before = [], after = [], accepted = /^$/ }: Trial,
): Promise<void> {
  t.ok(flags.length > 0, `${name} has flags`);
  const run = (...args: readonly string[]): Promise<string> =>
    complaint(t, command, [...before, ...args, ...after], accepted);
  for (const { flag, values } of flags) {
    const isBoolean = values.join() === "true,false";
    const helpers = (value: string): string[] => (flag === "--precision" ? ["--device", DEVICES[value]!] : []);
    for (const value of values) {
      t.equal(await run(...helpers(value), flag, value), "", `${name} ${flag} ${value}`);
      t.equal(await run(...helpers(value), `${flag}=${value}`), "", `${name} ${flag}=${value}`);
    }
    if (values.length === 0) {
      t.equal(await run(flag), "", `${name} ${flag}`);
      t.match(await run(`${flag}=true`), /: (takes no value|no such flag.*)$/, `${name} ${flag}=true`);
    } else if (isBoolean) {
      for (const alone of [flag, flag.replace("--", "--no-")]) t.equal(await run(alone), "", `${name} ${alone}`);
    } else {
      // Nothing more on the line, or another flag.
      for (const rest of [[], ["--help"]])
        t.match(
          await complaint(t, command, [...before, flag, ...rest], accepted),
          new RegExp(`${flag}: a value is missing$`),
          `${name} ${flag} ${rest.join()}`,
        );
    }
    const once = values.length === 0 || isBoolean ? [flag] : [`${flag}=${values[0]}`];
    const repeatable = (name === "load" && flag === "--url") || flag === "--limit";
    const twice = await run(...once, ...once);
    if (repeatable) t.equal(twice, "", `${name} ${flag} twice`);
    else t.match(twice, new RegExp(`${flag}: given twice$`), `${name} ${flag} twice`);
    t.match(await run(`${flag}x`), new RegExp(`${flag}x: no such flag; see [^\\n]*--help$`), `${name} ${flag}x`);
  }
}

for (const name of ["serve", "build", "doctor"]) {
  t.test(name, async (t) => {
    const command = commands[name]!;
    // The flags before --help are read.
    await tryAll(t, { name, command, flags: flagsIn(await helpOf(t, command)), after: ["--help"] });
  });
}

t.test("bad flags of load", async (t) => {
  const command = commands["load"]!;
  const flags = flagsIn((await helpOf(t, command)).replace("--compare A.json B.json", ""));
  const given = (flag: string): string[] => (flag === "--scenario" ? [] : ["--scenario", "smoke"]);
  // Nobody listens there.
  const server = "--url=http://127.0.0.1:9";
  for (const one of flags)
    await tryAll(t, {
      name: "load",
      command,
      flags: [one],
      before: given(one.flag),
      after: [server],
      accepted: /^load: trace /,
    });
  t.match(
    await complaint(t, command, ["--compare", "nowhere.json", "other.json"], /^$/),
    /^load --compare nowhere\.json: /,
  );
});

t.test("bad flags of push", async (t) => {
  const command = commands["push"]!;
  await tryAll(t, {
    name: "push",
    command,
    flags: flagsIn(await helpOf(t, command)),
    before: ["./nowhere"],
    accepted: /nowhere/,
  });
});

t.test("bad flags of users", async (t) => {
  const command = commands["users"]!;
  const [usage = "", ...lines] = (await helpOf(t, command)).split("\n");
  const everywhere = flagsIn(usage);
  t.same(
    everywhere.map(({ flag }) => flag),
    ["--url", "--admin-key-file"],
  );
  const own = lines.flatMap(
    (line) =>
      (/^ {2}([a-z-]+)((?: [A-Z_]+)*)(.*)$/
        .exec(line)
        ?.slice(1, 4)
        .map((part) => part.trim()) as [string, string, string] | undefined) ?? [],
  );
  t.equal(own.length, 3 * 11, "eleven commands");
  for (let i = 0; i < own.length; i += 3) {
    const [name = "", operands = "", rest = ""] = own.slice(i, i + 3);
    const before = [name, ...operands.split(" ").filter((word) => word !== "")];
    // With its arguments taken it lacks the key, or with that the server.
    const trial = {
      command,
      before,
      accepted: /^(users: give --admin-key-file|no server answers|--weight: )/,
      after: ["--url=http://127.0.0.1:9"],
    };
    const flags = flagsIn(rest);
    if (flags.length > 0) await tryAll(t, { name: `users ${name}`, flags, ...trial });
    await tryAll(t, { name: `users ${name}`, flags: everywhere, ...trial, after: [] });
  }
});
