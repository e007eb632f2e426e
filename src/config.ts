/** Settings from flags and variables. */
import { existsSync } from "node:fs";
import { BlockList, isIP } from "node:net";
import { homedir } from "node:os";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import type { Static, TSchema } from "typebox";
import { Value } from "typebox/value";
import { defaultReplicaName, OPERATION_CHECKS } from "./config-operation.ts";
import { ConfigSchema, DEVICE_PRECISIONS } from "./config-schema.ts";
import { checkWatchSettings } from "./config-watch.ts";
import { ConfigError } from "./errors.ts";
import { parseHubId } from "./formats/hub-id.ts";
import { readAdminKeys } from "./key-files.ts";
import { parseRedisUrl, RedisUrlError } from "./redis/url.ts";

/**
 * package.json's folder, from `src/` and from `dist/`: defaults in the package do not depend on the working directory.
 */
const PACKAGE_ROOT = fileURLToPath(new URL("..", import.meta.url));

export type Config = Readonly<Omit<Static<typeof ConfigSchema>, "precision">> & {
  readonly precision: "fp32" | "int8" | "fp16";
  /** The folder of `--store lmdb:DIR`; null if the store is Redis. */
  readonly storeFolder: string | null;
  /** Empty: no keys. Not enumerable, so that printing the configuration does not reveal them. */
  readonly adminKeys: readonly string[];
};
type Key = keyof typeof ConfigSchema.properties;
/** The fields of a property's schema that this file reads. */
type Property = TSchema & {
  type?: string;
  enum?: string[];
  default?: unknown;
  description: string;
  arg?: string;
  shown?: string;
  unit?: "bytes";
  minimum?: number;
  maximum?: number;
};

const PROPERTIES = ConfigSchema.properties as unknown as Readonly<Record<Key, Property>>;
const KEYS = Object.keys(PROPERTIES) as Key[];

/**
 * Variables with our prefix that are not server settings: the clients' variables and the admin key, which has no flag.
 */
const CLIENT_VARIABLES = new Set(["PREFIXD_URL", "PREFIXD_KEY", "PREFIXD_ADMIN_KEY"]);
/** Kubernetes sets these for a Service named prefixd in every pod of the namespace. */
const SERVICE_LINK = /^PREFIXD_(SERVICE_(HOST|PORT.*)|PORT_\d+_(TCP|UDP).*)$/;

/** Settings that name a file, "" for none. */
const FILES = ["adminKeyFile", "auditLog", "redisCaFile", "redisCertFile", "redisKeyFile"] as const;

const lmdbFolder = (store: string): string | null => (store.startsWith("lmdb:") ? store.slice("lmdb:".length) : null);

export const flagOf = (key: string): string => "--" + key.replace(/[A-Z]/g, (c) => "-" + c.toLowerCase());
export const variableOf = (key: string): string => "PREFIXD_" + key.replace(/[A-Z]/g, (c) => "_" + c).toUpperCase();

/**
 * Takes settings from the command line, then the environment, then defaults. An empty variable counts as unset. Throws
 * ConfigError for anything unknown, malformed or out of range. Returns "help" if the user asked for it.
 */
export function parseConfig(
  args: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): Config | "help" {
  const given = readFlags(args);
  if (given === "help") return "help";
  const raw: Record<string, unknown> = { ...computedDefaults(env), ...readVariables(env), ...given };
  for (const key of KEYS) raw[key] ??= PROPERTIES[key].default;
  // CUDA takes several prompts per run.
  raw["prefillChunk"] ??= raw["device"] === "cuda" ? 512 : 64;
  raw["replicaName"] ??= defaultReplicaName(Number(raw["port"]));
  raw["model"] = resolveModelName(String(raw["model"]));
  raw["cacheDir"] = resolve(String(raw["cacheDir"]));
  if (raw["prefixes"] !== "") raw["prefixes"] = resolve(String(raw["prefixes"]));
  for (const key of FILES) if (raw[key] !== "") raw[key] = resolve(String(raw[key]));
  if (raw["chatTemplate"] !== "" && raw["chatTemplate"] !== "none")
    raw["chatTemplate"] = resolve(String(raw["chatTemplate"]));
  const settings = Value.Parse(ConfigSchema, raw);
  const precision = precisionOf(settings);
  checkWatchSettings(settings);
  const adminKeys = readAdminKeys(settings.adminKeyFile, env);
  if (adminKeys.length === 0 && !isLoopback(settings.host)) {
    throw new ConfigError(
      `--host ${settings.host}: without keys (--admin-key-file) the server only listens on loopback (127.0.0.0/8, ::1 or localhost)`,
    );
  }
  return Object.freeze(
    Object.defineProperty({ ...settings, precision, storeFolder: lmdbFolder(settings.store) }, "adminKeys", {
      value: adminKeys,
      enumerable: false,
    }),
  ) as Config;
}

function precisionOf({ device, precision }: Static<typeof ConfigSchema>): Config["precision"] {
  const taken: readonly Config["precision"][] = DEVICE_PRECISIONS[device];
  if (precision === "auto") return taken[0]!;
  if (taken.includes(precision)) return precision;
  throw new ConfigError(`--precision ${precision}: --device ${device} takes ${taken.join(" or ")}`);
}

/** The origins of `--cors-origins`. */
export const originsOf = ({ corsOrigins }: Pick<Config, "corsOrigins">): string[] =>
  corsOrigins === "" ? [] : corsOrigins.split(",");

/** Texts that must never appear in a log. */
export function secretsOf({ adminKeys, store, storeFolder }: Config): string[] {
  const password = storeFolder === null ? parseRedisUrl(store).password : undefined;
  return [...adminKeys, password].filter((secret) => typeof secret === "string");
}

/** Returns a folder as an absolute path. A name that is not a folder and looks like a hub id stays as it is. */
function resolveModelName(model: string): string {
  return parseHubId(model) !== null && !existsSync(model) ? model : resolve(model);
}

function computedDefaults(env: Readonly<Record<string, string | undefined>>): Partial<Config> {
  return {
    model: join(PACKAGE_ROOT, "models", "demo"),
    cacheDir: join(env["XDG_CACHE_HOME"] || join(homedir(), ".cache"), "prefixd"),
  };
}

function readFlags(args: readonly string[]): Partial<Record<Key, unknown>> | "help" {
  const byFlag = new Map(KEYS.map((key) => [flagOf(key), key]));
  const out: Partial<Record<Key, unknown>> = {};
  for (let i = 0; i < args.length; i++) {
    const arg = args[i] ?? "";
    if (arg === "--help" || arg === "-h") return "help";
    const [flag, inline] = splitFlag(arg);
    const negated = byFlag.get(flag.replace(/^--no-/, "--"));
    const key =
      byFlag.get(flag) ??
      (flag.startsWith("--no-") && negated && PROPERTIES[negated].type === "boolean" ? negated : undefined);
    // Echo it only if it looks harmless: it may be part of a URL split by the shell, password included.
    if (!flag.startsWith("-") && !/^[\w.-]+$/.test(flag))
      throw new ConfigError("an argument is neither a flag nor the value of one; see --help");
    if (key === undefined) throw new ConfigError(`${flag}: no such flag; see --help`);
    if (key in out) throw new ConfigError(`${flagOf(key)}: given twice`);
    const next = args[i + 1];
    const value = inline ?? (next !== undefined && !next.startsWith("--") ? next : undefined);
    // A boolean flag alone, or before the next flag, means true.
    if (PROPERTIES[key].type === "boolean" && (value === undefined || next === "-h")) {
      out[key] = !flag.startsWith("--no-");
      continue;
    }
    if (value === undefined || flag !== flagOf(key))
      throw new ConfigError(`${flag}: ${value === undefined ? "a value is missing" : "takes no value"}`);
    if (inline === undefined) i++;
    out[key] = convert(key, flag, value);
  }
  return out;
}

function splitFlag(arg: string): [string, string | undefined] {
  const at = arg.indexOf("=");
  return arg.startsWith("--") && at > 0 ? [arg.slice(0, at), arg.slice(at + 1)] : [arg, undefined];
}

function readVariables(env: Readonly<Record<string, string | undefined>>): Partial<Record<Key, unknown>> {
  const byVariable = new Map(KEYS.map((key) => [variableOf(key), key]));
  const out: Partial<Record<Key, unknown>> = {};
  for (const [name, value] of Object.entries(env)) {
    if (!name.startsWith("PREFIXD_") || CLIENT_VARIABLES.has(name) || SERVICE_LINK.test(name) || !value) continue;
    const key = byVariable.get(name);
    if (key === undefined) throw new ConfigError(`${name}: no such setting; see --help`);
    if ((key === "port" || key === "adminPort") && /^(tcp|udp):\/\//.test(value)) {
      throw new ConfigError(
        `${name}=${value}: set by Kubernetes for a Service of that name; set enableServiceLinks: false in the pod`,
      );
    }
    out[key] = convert(key, name, value);
  }
  return out;
}

/** Parses one value; `source` is the flag or variable to name in errors. */
function convert(key: Key, source: string, text: string): unknown {
  const property = PROPERTIES[key];
  const fail = (expected: string): never => {
    throw new ConfigError(`${source} ${text}: expected ${expected}`);
  };
  if (property.enum) {
    return property.enum.includes(text) ? text : fail(property.enum.join(" or "));
  }
  if (property.type === "boolean") {
    if (/^(true|1|yes|on)$/i.test(text)) return true;
    return /^(false|0|no|off)$/i.test(text) ? false : fail("true or false");
  }
  if (property.type === "integer" || property.type === "number") {
    const number = property.unit === "bytes" ? parseBytes(text) : /^-?\d+(\.\d+)?$/.test(text) ? Number(text) : NaN;
    return Value.Check(property, number) ? number : fail(rangeOf(property));
  }
  if (key === "store") return checkStore(source, text);
  const check = OPERATION_CHECKS[key];
  if (check !== undefined && !check.is(text)) return fail(check.expected);
  if (key === "corsOrigins" && !text.split(",").every(isOrigin))
    return fail("origins separated by commas, such as https://app.example,http://localhost:3000");
  return Value.Check(property, text) ? text : fail("a value");
}

/** Whether the text is an origin as browsers send it: no path, no default port. */
const isOrigin = (text: string): boolean =>
  /^https?:/.test(text) && URL.canParse(text) && new URL(text).origin === text;

/** Messages never repeat the text: it may contain a password. */
function checkStore(source: string, text: string): string {
  if (lmdbFolder(text)) return text;
  if (!/^(rediss?|unix):/.test(text))
    throw new ConfigError(`${source}: expected lmdb:DIR or redis://HOST:PORT/DB, in lower case`);
  try {
    parseRedisUrl(text);
    return text;
  } catch (error) {
    throw error instanceof RedisUrlError ? new ConfigError(`${source}: ${error.message}`) : error;
  }
}

const UNITS: Readonly<Record<string, number>> = {
  "": 1,
  b: 1,
  kb: 1e3,
  mb: 1e6,
  gb: 1e9,
  kib: 1024,
  mib: 1024 ** 2,
  gib: 1024 ** 3,
  k: 1024,
  m: 1024 ** 2,
  g: 1024 ** 3,
};

/** Converts `512MiB`, `1.5GB` or `4096` to bytes; NaN if it is not a size. K, M and G alone are binary. */
export function parseBytes(text: string): number {
  const match = /^(\d+(?:\.\d+)?)\s*([a-z]*)$/i.exec(text);
  const unit = UNITS[(match?.[2] ?? "-").toLowerCase()];
  return match && unit !== undefined ? Math.floor(Number(match[1]) * unit) : NaN;
}

function rangeOf(property: Property): string {
  const what =
    property.unit === "bytes" ? "a size such as 512MiB" : property.type === "integer" ? "a whole number" : "a number";
  if (property.maximum === undefined) return `${what}, at least ${property.minimum ?? 0}`;
  return `${what} from ${property.minimum ?? 0} to ${property.maximum}`;
}

const LOOPBACK = new BlockList();
LOOPBACK.addSubnet("127.0.0.0", 8, "ipv4");
LOOPBACK.addAddress("::1", "ipv6");

/**
 * True if only this machine can reach the address. Names other than localhost are not resolved: their meaning may
 * change.
 */
export function isLoopback(host: string): boolean {
  const bare = host.toLowerCase().replace(/^\[(.*)\]$/, "$1");
  const family = isIP(bare);
  return family === 0 ? bare === "localhost" : LOOPBACK.check(bare, family === 4 ? "ipv4" : "ipv6");
}

/** All settings as rows of text, for --help and the documentation. */
export function describeSettings(): {
  flag: string;
  variable: string;
  values: string;
  default: string;
  description: string;
}[] {
  return KEYS.map((key) => {
    const p = PROPERTIES[key];
    const values = p.enum?.join("|") ?? (p.type === "boolean" ? "true|false" : (p.arg ?? ""));
    return {
      flag: flagOf(key),
      variable: variableOf(key),
      values,
      default: p.shown ?? String(p.default),
      description: p.description,
    };
  });
}

export function helpText(): string {
  const rows = describeSettings().map((s) => ({
    left: `  ${s.flag} ${s.values.length > 20 ? "LEVEL" : s.values}`,
    right: `${s.description} (default ${s.default})`,
  }));
  const width = Math.max(...rows.map((row) => row.left.length)) + 2;
  return [
    "Usage: prefixd serve [flags]",
    "",
    "One frozen GPT-2 serves every user's trained prefix. Each flag has a variable: --max-batch is PREFIXD_MAX_BATCH.",
    "--flag VALUE and --flag=VALUE are the same; for a boolean, --flag alone means true and --no-flag means false.",
    "",
    ...rows.map((row) => row.left.padEnd(width) + row.right),
    "  --help".padEnd(width) + "This text",
    "",
  ].join("\n");
}
