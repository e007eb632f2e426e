import { chmodSync } from "node:fs";
import t from "tap";
import {
  describeSettings,
  helpText,
  isLoopback,
  originsOf,
  parseBytes,
  parseConfig,
  type Config,
} from "../src/config.ts";
import { ConfigError } from "../src/errors.ts";
import { isWorldReadable } from "../src/key-files.ts";
import { docsBlock, markdownTable } from "./support/docs-block.ts";

const parse = (args: string[], env: Record<string, string> = {}): Config => {
  const config = parseConfig(args, env);
  if (config === "help") throw new Error("help");
  return config;
};

t.test("defaults serve the demo model on loopback and cannot be changed", async (t) => {
  const config = parse([], { HOME: "/nowhere", XDG_CACHE_HOME: "/cache" });
  t.match(config, {
    host: "127.0.0.1",
    port: 8080,
    device: "cpu",
    precision: "fp32",
    maxBatch: 32,
    maxQueue: 256,
    prefillChunk: 64,
  });
  t.match(config, {
    allowBaseModel: true,
    requireBaseName: false,
    prefixCacheBytes: 512 * 1024 ** 2,
    requestBodyLimit: 1024 ** 2,
    drainTimeout: 30,
    prefixes: "",
  });
  t.match(config.model, /models\/demo$/);
  t.equal(config.cacheDir, "/cache/prefixd");
  t.throws(() => Object.assign(config, { port: 1 }), TypeError);
});

t.test("flags, variables, and flags before variables", async (t) => {
  t.equal(parse(["--max-batch", "8"]).maxBatch, 8);
  t.equal(parse(["--max-batch=8"]).maxBatch, 8);
  t.equal(parse([], { PREFIXD_MAX_BATCH: "9" }).maxBatch, 9);
  t.equal(parse(["--max-batch", "8"], { PREFIXD_MAX_BATCH: "9" }).maxBatch, 8);
  t.equal(parse([], { PREFIXD_MAX_BATCH: "" }).maxBatch, 32);
  t.equal(parse(["--prefix-cache-bytes", "1.5GiB"]).prefixCacheBytes, 1.5 * 1024 ** 3);
  t.equal(parse(["--no-allow-base-model"]).allowBaseModel, false);
  t.equal(parse(["--allow-base-model=false"]).allowBaseModel, false);
  t.equal(parse(["--allow-base-model", "false"]).allowBaseModel, false);
  t.match(parse(["--allow-base-model", "--port", "1"]), { allowBaseModel: true, port: 1 });
  t.equal(parse([], { PREFIXD_ALLOW_BASE_MODEL: "0" }).allowBaseModel, false);
  t.equal(parse(["--drain-timeout", "0.5"]).drainTimeout, 0.5);
  for (const store of ["redis://127.0.0.1:6379", "unix:///run/redis.sock?db=1", "lmdb:./data"])
    t.equal(parse(["--store", store]).store, store);
  t.equal(parseConfig(["--port", "1", "--help"], {}), "help");
});

t.test("a device's own arithmetic where none is named", async (t) => {
  for (const [device, precision] of [
    ["cpu", "fp32"],
    ["webgpu", "fp32"],
    ["cuda", "fp16"],
  ] as const)
    t.equal(parse(["--device", device]).precision, precision);
  t.equal(parse(["--device", "webgpu", "--precision", "fp16"]).precision, "fp16");
});

t.test("what cannot be used stops with one line that names it", async (t) => {
  const cases: [string[], Record<string, string>, RegExp][] = [
    [["--bogus"], {}, /^--bogus: no such flag/],
    [["serve"], {}, /^serve: no such flag/],
    [["--port"], {}, /^--port: a value is missing/],
    [["--port", "--host"], {}, /^--port: a value is missing/],
    [["--port", "1", "--port", "2"], {}, /^--port: given twice/],
    [["--port", "65536"], {}, /^--port 65536: expected a whole number from 0 to 65535/],
    [["--port", "1.5"], {}, /^--port 1\.5: expected/],
    [["--port", "0x50"], {}, /^--port 0x50: expected/],
    [["--max-batch=0"], {}, /^--max-batch 0: expected/],
    [["--device", "cuda", "--precision", "fp32"], {}, /^--precision fp32: --device cuda takes fp16/],
    [["--precision", "fp16"], {}, /^--precision fp16: --device cpu takes fp32 or int8/],
    [["--device", "tpu"], {}, /^--device tpu: expected cpu/],
    [["--precision", "int4"], {}, /^--precision int4: expected auto or fp32/],
    [["--store", "postgres://x"], {}, /^--store: expected lmdb:DIR or redis/],
    [["--store", "lmdb:"], {}, /^--store: expected lmdb:DIR/],
    [["--store", "redis://h:0"], {}, /^--store: the port must be/],
    [[], { PREFIXD_STORE: "redis://h/x" }, /^PREFIXD_STORE: the database must be/],
    [["my@redis"], {}, /^an argument is neither a flag nor the value of one; see --help$/],
    [["--prefix-cache-bytes", "12parsecs"], {}, /^--prefix-cache-bytes 12parsecs: expected a size/],
    [["--no-port", "1"], {}, /^--no-port: no such flag/],
    [["--no-allow-base-model=true"], {}, /^--no-allow-base-model: takes no value/],
    [["--no-allow-base-model", "true"], {}, /^--no-allow-base-model: takes no value/],
    [["--allow-base-model", "maybe"], {}, /^--allow-base-model maybe: expected true or false/],
    [["--allow-base-model=maybe"], {}, /^--allow-base-model maybe: expected true or false/],
    [["--host", "0.0.0.0"], {}, /^--host 0\.0\.0\.0: without keys/],
    [[], { PREFIXD_MAX_BACH: "1" }, /^PREFIXD_MAX_BACH: no such setting/],
    [[], { PREFIXD_PORT: "8080\n" }, /^PREFIXD_PORT 8080\\u000a: expected/],
    [[], { PREFIXD_PORT: "http" }, /^PREFIXD_PORT http: expected/],
    [[], { PREFIXD_PORT: "tcp://10.0.0.1:80" }, /^PREFIXD_PORT=tcp.*enableServiceLinks/],
  ];
  for (const [args, env, message] of cases) {
    t.throws(() => parse(args, env), { name: "ConfigError", message }, JSON.stringify([args, env]));
    try {
      parse(args, env);
    } catch (error) {
      t.ok(error instanceof ConfigError && !error.message.includes("\n"));
    }
  }
  t.doesNotThrow(() =>
    parse([], { PREFIXD_SERVICE_HOST: "10.0.0.1", PREFIXD_PORT_8080_TCP_ADDR: "10.0.0.1", PREFIXD_URL: "http://x" }),
  );
});

t.test("the admin key: from its file or variable, long enough, never shown", async (t) => {
  const key = "0123456789abcdef0123456789abcdef";
  const dir = t.testdir({
    good: `  ${key}\r\n`,
    two: `${key}x\n\n ${key} \n`,
    second: `${key}\nSECRET note\n`,
    twice: `${key}\n${key}\n`,
    many: Array.from({ length: 9 }, (_, i) => `${key}${i}\n`).join(""),
    short: "SECRET\n",
    odd: `SECRET SECRET ${key}`,
    empty: "",
  });
  t.equal(parse([]).adminKeys.length, 0);
  t.equal(parse([], { PREFIXD_ADMIN_KEY: key, PREFIXD_HOST: "0.0.0.0" }).adminKeys[0], key);
  const config = parse(["--admin-key-file", `${dir}/good`, "--host", "::"]);
  t.match(config, { adminKeys: [key], host: "::" });
  t.notOk(JSON.stringify(config).includes(key));
  t.same(parse(["--admin-key-file", `${dir}/two`]).adminKeys, [`${key}x`, key], "one a line");
  for (const [file, message] of [
    ["twice", /has a key twice$/],
    ["many", /has more than 8 keys$/],
  ] as const)
    t.throws(() => parse(["--admin-key-file", `${dir}/${file}`]), { name: "ConfigError", message });
  for (const file of ["short", "second", "odd", "empty", "none"]) {
    t.throws(() => parse(["--admin-key-file", `${dir}/${file}`]), {
      name: "ConfigError",
      message: /^--admin-key-file .*: (the admin key must|there is no such file or folder$)/,
    });
    t.throws(() => parse(["--admin-key-file", `${dir}/${file}`]), { message: /^((?!SECRET).)*$/ });
  }
  t.throws(() => parse([], { PREFIXD_ADMIN_KEY: "short" }), { message: /^PREFIXD_ADMIN_KEY: the admin key must have/ });
  t.throws(() => parse(["--admin-key-file", `${dir}/good`], { PREFIXD_ADMIN_KEY: key }), {
    message: /give only one of them/,
  });
  chmodSync(`${dir}/good`, 0o644);
  t.ok(isWorldReadable(`${dir}/good`));
  chmodSync(`${dir}/good`, 0o640);
  t.notOk(isWorldReadable(`${dir}/good`));
});

t.test("loopback is what only this machine reaches", async (t) => {
  for (const host of ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LOCALHOST", "::ffff:127.0.0.1"])
    t.ok(isLoopback(host), host);
  for (const host of [
    "0.0.0.0",
    "::",
    "10.0.0.1",
    "128.0.0.1",
    "localhost.evil.example",
    "127.0.0.1.nip.io",
    "::ffff:10.0.0.1",
    "",
  ])
    t.notOk(isLoopback(host), host);
});

t.test("sizes", async (t) => {
  t.equal(parseBytes("4096"), 4096);
  t.equal(parseBytes("1kb"), 1000);
  t.equal(parseBytes("2 MiB"), 2 * 1024 ** 2);
  t.equal(parseBytes("1g"), 1024 ** 3);
  for (const bad of ["", "MiB", "-1", "1e9", "1 TiB", "NaN"]) t.ok(Number.isNaN(parseBytes(bad)), bad);
});

t.test("help and docs/reference/configuration.md say what the schema says", async (t) => {
  const rows = describeSettings();
  for (const row of rows) t.ok(helpText().includes(row.flag) && helpText().includes(row.description), row.flag);
  const code = (text: string): string => "`" + text + "`";
  const table = markdownTable(
    ["flag", "variable", "values", "default", "what it sets"],
    rows.map((row) => [code(row.flag), code(row.variable), code(row.values), row.default, row.description]),
  );
  t.equal(docsBlock("docs/reference/configuration.md", "settings", table), table);
});

t.test("origins are named as browsers send them", async (t) => {
  const origins = (...args: string[]): string[] => originsOf(parse(args));
  t.same(origins(), []);
  t.same(origins("--cors-origins", "https://app.example:8443,http://localhost:3000"), [
    "https://app.example:8443",
    "http://localhost:3000",
  ]);
  for (const text of ["*", "null", "app.example", "https://a/", "https://a:443", "https://a, https://b"])
    t.throws(() => origins("--cors-origins", text), { message: /--cors-origins .*expected origins/ }, text);
});

t.test("the replica's name and the proxies that are believed", (t) => {
  t.equal(parse(["--replica-name", "eu-1.a"]).replicaName, "eu-1.a");
  t.match(parse(["--port", "8081"]).replicaName, /^[A-Za-z0-9][A-Za-z0-9._-]*-8081$/);
  t.equal(parse(["--port", "8081"]).replicaName, parse(["--port", "8081"]).replicaName);
  t.match(parse(["--port", "0"]).replicaName, new RegExp(`-${process.pid}$`));
  for (const name of ["a/b", "-a", "", "a b", "x".repeat(101)])
    t.throws(() => parse([`--replica-name=${name}`]), { name: "ConfigError", message: /--replica-name/ }, name);
  for (const proxies of ["10.0.0.1", "10.0.0.0/8,::1", "fd00::/8"])
    t.equal(parse(["--trusted-proxies", proxies]).trustedProxies, proxies);
  for (const proxies of ["10.0.0.0/33", "balancer", "10.0.0.1,", "::/129", "1.2.3.4/5/6", "true"])
    t.throws(() => parse(["--trusted-proxies", proxies]), { name: "ConfigError", message: /IP addresses/ }, proxies);
  t.end();
});
